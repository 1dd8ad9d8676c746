"""The engine on OpenVINO against what else runs a model on a CPU, in turn, end to end.

Parts: `b1` and `b32` against transformers' `generate`, its continuous batching and OpenVINO GenAI;
`prefix` with a shared prefix in the cache; `decode` steps alone; `lag`, how late an event loop
beside the engine is; `threads`, speed and lateness with one thread and with one for each core;
`bits`, what eight bits gain and cost.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import models, peers
from benchmarks.decoding import DecodeClock
from benchmarks.engines import Engine, load
from benchmarks.genai import GenAi
from benchmarks.harness import Report, arguments, interleave, ratio
from benchmarks.lateness import lateness
from bosal_server.engine.openvino_runtime import has_bf16
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.model import LoadedModel
from bosal_server.precision import has_fast_bf16

CONTEXT, PREFIX, NEW_TOKENS, ROWS = 128, 1024, 64, 32
PARTS = ("b1", "b32", "prefix", "decode", "lag", "threads", "bits")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--models", nargs="+", default=list(models.SHAPES), choices=models.SHAPES)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--genai-python", type=Path, help="a Python that has openvino-genai and openvino-tokenizers"
    )
    parser.add_argument(
        "--no-continuous-batching", action="store_true", help="leave the slowest peer out"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("cpu", options)
    # Each side in the faster of the two types that this processor offers it.
    report.note("engine_dtype", "bfloat16" if has_bf16() else "float32")
    report.note("transformers_dtype", "bfloat16" if has_fast_bf16() else "float32")
    for name in options.models:
        Contest(report, name).run(options.parts)
    report.finish()


class Contest:
    """One model, our engine, and its peers."""

    def __init__(self, report: Report, name: str) -> None:
        self._report = report
        self._name = name
        self._options = report.options
        self._new_tokens = 12 if report.options.quick else NEW_TOKENS
        self._seeds = count(1)

    def run(self, parts: list[str]) -> None:
        model = load(self._name, dtype="float32")
        with ExitStack() as stack:
            clock = DecodeClock()
            engine = stack.enter_context(
                Engine(model, runner="openvino", max_groups=ROWS, observer=clock)
            )
            genai = self._genai(stack, model) if {"b32", "prefix", "decode"} & set(parts) else None
            if {"b1", "b32"} & set(parts):
                dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
                peer = models.build(self._name, dtype=dtype)
                for batch in (1, ROWS):
                    if f"b{batch}" in parts:
                        self._throughput(engine, peer, genai, batch)
                        self._report.write()
            if "prefix" in parts and genai is not None:
                self._prefix(engine, genai)
                self._report.write()
            if "decode" in parts and genai is not None:
                self._decode(engine, clock, genai)
                self._report.write()
            if "lag" in parts:
                self._lag(engine)
        if "threads" in parts:
            self._threads(model)
            self._report.write()
        if "bits" in parts:
            self._bits(model)

    def _genai(self, stack: ExitStack, model: LoadedModel) -> GenAi | None:
        if self._options.genai_python is None:
            return None
        genai = stack.enter_context(
            GenAi(
                self._options.genai_python,
                self._name,
                model.model,
                threads=self._options.threads,
                precision="bf16" if has_bf16() else "f32",
            )
        )
        self._report.note("openvino_genai", genai.version)
        return genai

    def _prompts(self, batch: int, length: int = CONTEXT) -> list[list[int]]:
        """Draw fresh prompts: nobody profits from a cache of the round before."""
        return models.prompts(batch, length, seed=next(self._seeds))

    def _throughput(self, engine: Engine, peer: Any, genai: GenAi | None, batch: int) -> None:
        def timed(run: Callable[[list[list[int]], int], int]) -> Callable[[], float]:
            def rate() -> float:
                prompts = self._prompts(batch)
                start = perf_counter()
                tokens = run(prompts, self._new_tokens)
                return tokens / (perf_counter() - start)

            return rate

        contestants = {
            "engine": timed(engine.run),
            "generate": timed(lambda prompts, new: peers.generate(peer, prompts, new)),
        }
        if batch > 1 and not self._options.no_continuous_batching:
            contestants["cb"] = timed(
                lambda prompts, new: peers.continuous_batching(peer, prompts, new)
            )
        if genai is not None:
            contestants["genai"] = lambda: _rate(
                genai.generate(self._prompts(batch), self._new_tokens)
            )
        samples = interleave(contestants, self._options.rounds)
        label = f"{self._name}_b{batch}_c{CONTEXT}"
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_{label}_tokens_per_second", values)
        for contestant in samples.keys() - {"engine"}:
            # The engine's own benchmark has the first two on either runner.
            suffix = "" if contestant == "genai" else "_ov"
            figure = f"{contestant}_{label}{suffix}"
            self._report.figure(figure, ratio(samples, "engine", contestant))

    def _prefix(self, engine: Engine, genai: GenAi) -> None:
        """Decode prompts that begin with the same tokens, whose keys and values are cached."""
        (head,) = self._prompts(1, PREFIX)

        def prompts() -> list[list[int]]:
            return [head + tail for tail in self._prompts(ROWS, 32)]

        def ours() -> float:
            asked = prompts()
            start = perf_counter()
            tokens = engine.run(asked, self._new_tokens)
            return tokens / (perf_counter() - start)

        contestants = {
            "engine": ours,
            "genai": lambda: _rate(genai.generate(prompts(), self._new_tokens)),
        }
        samples = interleave(contestants, self._options.rounds)
        label = f"{self._name}_b{ROWS}_prefix1k"
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_{label}_tokens_per_second", values)
        self._report.figure(f"genai_{label}", ratio(samples, "engine", "genai"))

    def _decode(self, engine: Engine, clock: DecodeClock, genai: GenAi) -> None:
        def ours() -> float:
            clock.reset()
            engine.run(self._prompts(ROWS), self._new_tokens)
            return clock.take()[0]

        contestants = {
            "engine": ours,
            "genai": lambda: genai.decode_step(self._prompts(ROWS), self._new_tokens),
        }
        samples = interleave(contestants, self._options.rounds)
        label = f"{self._name}_b{ROWS}"
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_decode_{label}_seconds", values)
        self._report.figure(f"genai_decode_{label}", ratio(samples, "genai", "engine"))

    def _lag(self, engine: Engine) -> None:
        """Wake an event loop every few milliseconds while the engine works; how late was it?"""
        late: list[float] = []
        for _ in range(self._options.rounds):
            prompts = self._prompts(ROWS)
            late += lateness(partial(engine.run, prompts, self._new_tokens))
        for percent in (50, 99):
            milliseconds = float(np.percentile(late, percent)) * 1000
            self._report.figure(f"loop_lag_p{percent}_ms_{self._name}", milliseconds)

    def _threads(self, model: LoadedModel) -> None:
        """Compare one thread with one for each core, each with an event loop beside it."""
        late: dict[int, list[float]] = {}

        def rate(engine: Engine, batch: int, threads: int) -> Callable[[], float]:
            def tokens_per_second() -> float:
                prompts = self._prompts(batch)
                took: list[float] = []

                def work() -> None:
                    start = perf_counter()
                    tokens = engine.run(prompts, self._new_tokens)
                    took.append(tokens / (perf_counter() - start))

                late.setdefault(threads, []).extend(lateness(work))
                return took[0]

            return tokens_per_second

        with ExitStack() as stack:
            contestants: dict[str, Callable[[], float]] = {}
            for threads in sorted({1, os.cpu_count() or 1}):
                engine = Engine(model, runner="openvino", max_groups=ROWS, threads=threads)
                stack.enter_context(engine)
                for batch in (1, ROWS):
                    contestants[f"threads{threads}_{self._name}_b{batch}"] = rate(
                        engine, batch, threads
                    )
            samples = interleave(contestants, self._options.rounds)
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_tokens_per_second", values)
        for threads, values in late.items():
            milliseconds = float(np.percentile(values, 99)) * 1000
            self._report.figure(f"loop_lag_p99_ms_{self._name}_threads{threads}", milliseconds)

    def _bits(self, model: LoadedModel) -> None:
        """Compare a decode step and its logits with weights or cache in eight bits."""
        forms = {
            "exact": ("model", "model"),
            "int8": ("int8", "model"),
            "u8": ("model", "u8"),
            "both": ("int8", "u8"),
        }
        runners = {
            form: choose_runner(
                model,
                preference="openvino",
                weights=weights,
                kv_cache=kv_cache,
                cache_tokens=ROWS * 2 * CONTEXT,
                threads=self._options.threads,
            ).runner
            for form, (weights, kv_cache) in forms.items()
        }
        prompts = self._prompts(ROWS)
        tables = [range(8 * row, 8 * row + 8) for row in range(ROWS)]
        prefill = StepPlan.pack(
            [Chunk(ids[:-1], 0, table, 0) for ids, table in zip(prompts, tables, strict=True)], 32
        )
        decode = StepPlan.pack(
            [
                Chunk(ids[-1:], CONTEXT - 1, table, 1)
                for ids, table in zip(prompts, tables, strict=True)
            ],
            32,
        )
        logits = {}
        for form, runner in runners.items():
            runner.forward(prefill)
            logits[form] = runner.forward(decode).clone()

        def timed(form: str) -> Callable[[], float]:
            def seconds() -> float:
                times = []
                for _ in range(15):
                    start = perf_counter()
                    runners[form].forward(decode)
                    times.append(perf_counter() - start)
                return median(times)

            return seconds

        samples = interleave({form: timed(form) for form in forms}, self._options.rounds)
        for form, values in samples.items():
            self._report.detail(f"{form}_{self._name}_b{ROWS}_forward_seconds", values)
        for form in ("int8", "u8", "both"):
            error = (logits[form] - logits["exact"]).norm() / logits["exact"].norm()
            self._report.figure(f"{form}_{self._name}_logit_error", float(error))
            self._report.figure(f"{form}_{self._name}_b{ROWS}", ratio(samples, "exact", form))


def _rate(answer: dict[str, float]) -> float:
    return answer["tokens"] / answer["seconds"]


if __name__ == "__main__":
    main()
