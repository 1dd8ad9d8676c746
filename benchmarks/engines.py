"""Our engine over the benchmark models, driven in process."""

import threading
from dataclasses import dataclass, field
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from types import TracebackType
from typing import Self

import torch

from benchmarks import models
from benchmarks.harness import seconds
from bosal_decoding import Plan, Prompt, Recipe
from bosal_decoding.compile import compile
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.observer import EngineObserver
from bosal_server.engine.request import EngineEvent, EngineRequest, FailedEvent, FinishedEvent
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.model import LoadedModel, load_model

GREEDY = {"scaffold": {"kind": "raw"}, "rules": [{"rule": "temperature", "value": 0}]}


def load(name: str, *, dtype: str = "bfloat16", device: str = "cpu") -> LoadedModel:
    """Build a benchmark model and load it the way the server loads any model."""
    with TemporaryDirectory() as folder:
        models.save(name, folder)
        return load_model(name, folder, dtype=dtype, device=device)


def decode_step_seconds(name: str, *, rows: int, context: int, repeats: int) -> float:
    """Return the median time of a step that decodes one token for `rows` sequences."""
    runner = load(name).runner(cache_tokens=rows * (context + 64))
    per_row = context // runner.block_size + 1
    chunks = [
        Chunk([1], context, range(row * per_row, (row + 1) * per_row), True) for row in range(rows)
    ]
    plan = StepPlan.pack(chunks, runner.block_size)
    runner.forward(plan)
    return median(seconds(lambda: runner.forward(plan)) for _ in range(repeats))


@dataclass(slots=True)
class Collector:
    """Waits for a number of requests to end."""

    left: int
    tokens: int = 0
    first_token: dict[str, float] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def take(self, event: EngineEvent) -> None:
        if isinstance(event, FailedEvent):
            raise RuntimeError(f"a request failed: {event.error}")
        if isinstance(event, FinishedEvent):
            self.tokens += event.usage.output_tokens
            self.left -= 1
            if not self.left:
                self.done.set()


class Engine:
    """One model behind an engine loop; use it in `with`."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        runner: str,
        max_groups: int = 32,
        observer: EngineObserver | None = None,
        threads: int | None = None,
        cascade_attention: bool = False,
    ) -> None:
        """`threads` are those of the model and of the rules; unset as many as torch has."""
        threads = torch.get_num_threads() if threads is None else threads
        self.model = model
        self.plan: Plan = compile(
            Recipe.parse(GREEDY), model.vocabulary, context_tokens=model.context_tokens
        )
        engine_model = EngineModel(
            runner=choose_runner(
                model,
                preference=runner,
                threads=threads,
                cascade_attention=cascade_attention,
            ).runner,
            vocabulary=model.vocabulary,
            context_tokens=model.context_tokens,
            digest=model.digest,
        )
        self.loop = EngineLoop(
            {model.name: engine_model},
            EngineConfig(max_groups=max_groups, torch_threads=threads),
            self._deliver,
            observer,
        )
        self._count = 0

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
            assert isinstance(sink, Collector)
            sink.take(event)

    def run(self, prompts: list[list[int]], new_tokens: int) -> int:
        """Decode every prompt to its end at once; return the number of new tokens."""
        collector = Collector(len(prompts))
        for prompt in prompts:
            self._count += 1
            request = EngineRequest(
                request_id=str(self._count),
                model=self.model.name,
                plan=self.plan,
                prompts=(Prompt(text="", token_ids=tuple(prompt), history_ids=(), pin_tokens=0),),
                seed=0,
                max_tokens=new_tokens,
                arrival=monotonic(),
            )
            self.loop.submit(request, collector)
        if not collector.done.wait(600):
            raise TimeoutError("the engine did not finish")
        return collector.tokens
