"""What a server's settings are worth on a CPU: threads, cascade attention, eight bits."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.engines import Engine
from benchmarks.harness import Report, interleave, ratio
from benchmarks.lateness import lateness
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.model import LoadedModel

CONTEXT, ROWS = 128, 32
# Tokens of a shared prefix, and of what each sequence has behind it.
PREFIXES, SUFFIX = (256, 512, 1024), 64


class Settings:
    """One model under several settings."""

    def __init__(
        self,
        report: Report,
        model: LoadedModel,
        prompts: Callable[[int], list[list[int]]],
        new_tokens: int,
    ) -> None:
        """`prompts` draws as many fresh ones as it is asked for."""
        self._report = report
        self._options = report.options
        self._model = model
        self._prompts = prompts
        self._new_tokens = new_tokens

    def threads(self) -> None:
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
                engine = Engine(self._model, runner="openvino", max_groups=ROWS, threads=threads)
                stack.enter_context(engine)
                for batch in (1, ROWS):
                    contestants[f"threads{threads}_{self._model.name}_b{batch}"] = rate(
                        engine, batch, threads
                    )
            samples = interleave(contestants, self._options.rounds)
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_tokens_per_second", values)
        for threads, values in late.items():
            milliseconds = float(np.percentile(values, 99)) * 1000
            self._report.figure(
                f"loop_lag_p99_ms_{self._model.name}_threads{threads}", milliseconds
            )

    def cascade(self) -> None:
        """Compare decode steps over a shared prefix, and over none, with and without it."""
        runners = {
            name: choose_runner(
                self._model,
                preference="openvino",
                dtype="float32",
                cascade_attention=name == "cascade",
                cache_tokens=PREFIXES[-1] + ROWS * 2 * CONTEXT,
                threads=self._options.threads,
            ).runner
            for name in ("cascade", "paged")
        }
        steps = {
            f"b{rows}_prefix{prefix}": _decoding(rows, prefix, SUFFIX)
            for rows in (4, 8, ROWS)
            for prefix in PREFIXES
        }
        steps[f"b{ROWS}_c{CONTEXT}"] = _decoding(ROWS, 0, CONTEXT)
        for label, step in steps.items():
            samples = interleave(
                {name: _timed(runner, step) for name, runner in runners.items()},
                self._options.rounds,
            )
            label = f"{self._model.name}_{label}"
            for name, values in samples.items():
                self._report.detail(f"{name}_{label}_forward_seconds", values)
            self._report.figure(f"cascade_{label}", ratio(samples, "paged", "cascade"))

    def bits(self) -> None:
        """Compare a decode step and its logits with weights or cache in eight bits."""
        forms = {
            "exact": ("model", "model"),
            "int8": ("int8", "model"),
            "u8": ("model", "u8"),
            "both": ("int8", "u8"),
        }
        runners = {
            form: choose_runner(
                self._model,
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

        samples = interleave(
            {form: _timed(runner, decode) for form, runner in runners.items()},
            self._options.rounds,
        )
        for form, values in samples.items():
            self._report.detail(f"{form}_{self._model.name}_b{ROWS}_forward_seconds", values)
        for form in ("int8", "u8", "both"):
            error = (logits[form] - logits["exact"]).norm() / logits["exact"].norm()
            self._report.figure(f"{form}_{self._model.name}_logit_error", float(error))
            self._report.figure(f"{form}_{self._model.name}_b{ROWS}", ratio(samples, "exact", form))


def _decoding(rows: int, prefix: int, suffix: int) -> StepPlan:
    """Make a step of one token for each of so many sequences, over blocks never computed."""
    shared, own = prefix // 32, suffix // 32 + 1
    return StepPlan.pack(
        [
            Chunk(
                [5 + row],
                prefix + suffix,
                [*range(shared), *range(shared + row * own, shared + (row + 1) * own)],
                1,
            )
            for row in range(rows)
        ],
        32,
    )


def _timed(runner: ModelRunner, step: StepPlan) -> Callable[[], float]:
    def seconds() -> float:
        times = []
        for _ in range(15):
            start = perf_counter()
            runner.forward(step)
            times.append(perf_counter() - start)
        return median(times)

    return seconds
