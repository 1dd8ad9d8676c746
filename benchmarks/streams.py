"""What coupled streams cost: a step under guidance and proxy-tuning against a plain one."""

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from statistics import median
from types import TracebackType
from typing import Any, Self

import torch

from benchmarks import models
from benchmarks.engines import load
from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from bosal_decoding import Plan, Prompt, Recipe
from bosal_decoding.compile import compile
from bosal_decoding.streams import StreamModel
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.observer import NullObserver, StepReport
from bosal_server.engine.request import EngineEvent, EngineRequest, FailedEvent, FinishedEvent
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.model import LoadedModel

NEW_TOKENS = 64
CONTEXT = 128
SCAFFOLD = 1024
RULES: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "guidance": [{"rule": "guidance", "scale": 1.5}],
    "contrastive": [{"rule": "contrastive", "amateur": "15m"}],
    "proxy": [{"rule": "proxy_tuning", "expert": "15m", "anti_expert": "15m-too"}],
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--runner", default="openvino", choices=["torch", "openvino"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("streams", options)
    new_tokens = 12 if options.quick else NEW_TOKENS
    # Bfloat16 where the machine has it.
    large, small = load("500m", dtype="auto"), load("15m", dtype="auto")
    with Group({"500m": large, "15m": small, "15m-too": small}, options.runner) as group:
        steps(report, group, new_tokens)
        shared_scaffold(report, group)
    with Group({"15m": small}, options.runner) as group:
        overhead(report, group, options.batches, new_tokens)
    transformers(report, new_tokens, getattr(torch, large.dtype))
    report.finish()


class Steps(NullObserver):
    """Seconds of the decoding steps, and each model's part in forward passes."""

    def __init__(self) -> None:
        self.whole: list[float] = []
        self.forward: dict[str, list[float]] = defaultdict(list)

    def step(self, report: StepReport) -> None:
        if report.prefill_tokens == 0:
            self.forward[report.model].append(report.forward_s)
            self.whole.append(report.forward_s + report.control_s + report.rest_s)

    def take(self, num_models: int) -> tuple[float, dict[str, float]]:
        """Return the median step over `num_models` models and their median forward passes."""
        parts = [sum(self.whole[i : i + num_models]) for i in range(0, len(self.whole), num_models)]
        forward = {name: median(values) for name, values in self.forward.items()}
        self.whole, self.forward = [], defaultdict(list)
        return median(parts), forward


class Group:
    """Models behind one engine loop, the first the base; use it in `with`."""

    def __init__(self, loaded: Mapping[str, LoadedModel], runner: str) -> None:
        self.base = next(iter(loaded))
        self.observer = Steps()
        served = tuple(
            StreamModel(name=name, vocabulary=one.vocabulary, context_tokens=one.context_tokens)
            for name, one in loaded.items()
        )
        vocabulary = loaded[self.base].vocabulary
        self.plans: dict[str, Plan] = {}
        for name, rules in RULES.items():
            document = {
                "scaffold": {"kind": "raw"},
                "rules": [*rules, {"rule": "temperature", "value": 0}],
            }
            recipe = Recipe.parse(document)
            if set(recipe.models) <= loaded.keys():
                self.plans[name] = compile(recipe, vocabulary, context_tokens=2048, models=served)
        threads = torch.get_num_threads()
        self.loop = EngineLoop(
            {
                name: EngineModel(
                    runner=choose_runner(one, preference=runner, threads=threads).runner,
                    vocabulary=one.vocabulary,
                    context_tokens=one.context_tokens,
                    digest=f"{name}{one.digest}",
                )
                for name, one in loaded.items()
            },
            EngineConfig(max_groups=32, torch_threads=threads),
            self._deliver,
            self.observer,
        )
        self._numbers = count()

    def __enter__(self) -> Self:
        self.loop.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.loop.stop()

    @staticmethod
    def _deliver(events: list[tuple[object, EngineEvent]]) -> None:
        for sink, event in events:
            if isinstance(event, FailedEvent):
                raise RuntimeError(f"a request failed: {event.error}")
            if isinstance(event, FinishedEvent):
                assert isinstance(sink, threading.Semaphore)
                sink.release()

    def run(self, name: str, prompts: Sequence[Sequence[Sequence[int]]], new_tokens: int) -> None:
        """Decode every choice to its end at once; a prompt for each of its streams."""
        plan, done = self.plans[name], threading.Semaphore(0)
        for streams in prompts:
            request = EngineRequest(
                request_id=str(next(self._numbers)),
                model=self.base,
                plan=plan,
                prompts=tuple(
                    Prompt(text="", token_ids=tuple(ids), history_ids=(), pin_tokens=0)
                    for ids in streams
                ),
                seed=0,
                max_tokens=new_tokens,
            )
            self.loop.submit(request, done)
        for _ in prompts:
            if not done.acquire(timeout=600):
                raise TimeoutError("the engine did not finish")

    def step(self, name: str, batch: int, new_tokens: int, seed: int) -> float:
        """Return the median seconds of a decoding step."""
        plan = self.plans[name]
        bases = models.prompts(batch, CONTEXT, seed=seed)
        # Without an instruction little is left; another model reads the same prompt.
        prompts = [
            [
                base if stream.model or not place else base[-8:]
                for place, stream in enumerate(plan.streams)
            ]
            for base in bases
        ]
        self.run(name, prompts, new_tokens)
        names = {stream.model or self.base for stream in plan.streams}
        whole, self.last_forward = self.observer.take(len(names))
        return whole


def steps(report: Report, group: Group, new_tokens: int) -> None:
    """Compare steps at batch 8."""
    seeds = count(1)
    shares: list[float] = []

    def proxy() -> float:
        whole = group.step("proxy", 8, new_tokens, next(seeds))
        shares.append(sum(group.last_forward[name] for name in ("15m", "15m-too")))
        return whole

    samples = interleave(
        {
            "plain": lambda: group.step("plain", 8, new_tokens, next(seeds)),
            "guidance": lambda: group.step("guidance", 8, new_tokens, next(seeds)),
            "contrastive": lambda: group.step("contrastive", 8, new_tokens, next(seeds)),
            "proxy": proxy,
        },
        report.options.rounds,
    )
    for name, values in samples.items():
        report.detail(f"{name}_step_500m_b8_seconds", values)
    for name in ("guidance", "contrastive", "proxy"):
        report.figure(f"{name}_step_500m_b8", ratio(samples, name, "plain"))
    share = median(shares) / median(samples["plain"])
    report.figure("proxy_small_share_500m_b8", share)


def shared_scaffold(report: Report, group: Group) -> None:
    """Measure the first token over a cold scaffold of 1k that two streams share."""
    seeds = count(5000)

    def first(name: str) -> float:
        seed = next(seeds)
        (scaffold,) = models.prompts(1, SCAFFOLD, seed=seed)
        tails = models.prompts(2, 16, seed=seed + 100_000)
        streams = [scaffold + tail for tail in tails][: group.plans[name].num_streams]
        spent = seconds(lambda: group.run(name, [streams], 1))
        group.observer.whole.clear()
        return spent

    samples = interleave(
        {name: lambda name=name: first(name) for name in ("plain", "guidance")},  # type: ignore[misc]
        report.options.rounds,
    )
    report.figure("guidance_ttft_1k_500m", ratio(samples, "guidance", "plain"))


def overhead(report: Report, group: Group, batches: list[int], new_tokens: int) -> None:
    """Compare whole steps with their forward passes, on the small model, where it shows most."""
    seeds = count(9000)
    for name in ("plain", "guidance"):
        for batch in batches:
            values = []
            for _ in range(report.options.rounds):
                whole = group.step(name, batch, new_tokens, next(seeds))
                values.append(whole / group.last_forward[group.base])
            report.figure(f"{name}_step_over_forward_15m_b{batch}", median(values))


def transformers(report: Report, new_tokens: int, dtype: torch.dtype) -> None:
    """Measure what guidance costs in transformers, which runs a second model call each step."""
    peer = models.build("500m", dtype=dtype)
    seeds = count(20_000)

    def generate(**options: Any) -> float:
        ids = torch.tensor(models.prompts(8, CONTEXT, seed=next(seeds)))
        with torch.inference_mode():
            return seconds(
                lambda: peer.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=new_tokens,
                    max_new_tokens=new_tokens,
                    pad_token_id=0,
                    **options,
                )
            )

    samples = interleave(
        {"plain": generate, "guided": lambda: generate(guidance_scale=1.5)},
        max(report.options.rounds // 2, 1),
    )
    report.figure("transformers_guidance_500m_b8", ratio(samples, "guided", "plain"))


if __name__ == "__main__":
    main()
