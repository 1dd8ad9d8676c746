"""The engine on OpenVINO against what else runs a model on a CPU, in turn, end to end.

Parts: `b1` and `b32` against transformers' `generate`, its continuous batching, OpenVINO GenAI and
llama.cpp's server;
`decode` steps alone, and the share of the engine's that is not the forward pass;
`prefix` with a shared prefix in the cache, with cascade attention too where the engine computes in
float32; `lag`, how late an event loop
beside the engine is; `threads`, speed and lateness with one thread and with one for each core;
`cascade`, what it gains over shared prefixes and costs without; `bits`, what eight bits gain and
cost.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks import models
from benchmarks.cpu_settings import Settings
from benchmarks.decoding import DecodeClock
from benchmarks.engines import Engine, load
from benchmarks.genai import GenAi
from benchmarks.harness import Report, arguments, interleave, ratio
from benchmarks.lateness import lateness
from benchmarks.llama import Llama
from benchmarks.transformers_peer import Transformers
from bosal_server.engine.openvino_runtime import has_bf16
from bosal_server.model import LoadedModel
from bosal_server.precision import has_fast_bf16

CONTEXT, PREFIX, NEW_TOKENS, ROWS = 128, 1024, 64, 32
PARTS = ("b1", "b32", "decode", "prefix", "lag", "threads", "cascade", "bits")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--models", nargs="+", default=list(models.SHAPES), choices=models.SHAPES)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--genai-python", type=Path, help="a Python that has openvino-genai and openvino-tokenizers"
    )
    parser.add_argument("--llama-python", type=Path, help="a Python that has xllamacpp and gguf")
    parser.add_argument(
        "--no-continuous-batching", action="store_true", help="leave the slowest peer out"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("cpu", options)
    report.note("engine_dtype", "bfloat16" if has_bf16() else "float32")
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
            llama = self._llama(stack, model) if {"b1", "b32"} & set(parts) else None
            if {"b1", "b32"} & set(parts):
                peer = stack.enter_context(self._transformers())
                for batch in (1, ROWS):
                    if f"b{batch}" in parts:
                        self._throughput(engine, peer, genai, llama, batch)
                        self._report.write()
            if "decode" in parts and genai is not None:
                self._decode(engine, clock, genai)
                self._report.write()
            if "prefix" in parts and genai is not None:
                self._prefix(stack, engine, genai)
                self._report.write()
            if "lag" in parts:
                self._lag(engine)
                self._report.write()
        settings = Settings(self._report, model, self._prompts, self._new_tokens)
        if "threads" in parts:
            settings.threads()
            self._report.write()
        if "cascade" in parts:
            settings.cascade()
            self._report.write()
        if "bits" in parts:
            settings.bits()

    def _transformers(self) -> Transformers:
        dtypes = ("bfloat16", "float32") if has_fast_bf16() else ("float32",)
        return Transformers(self._name, threads=self._options.threads, dtypes=dtypes)

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

    def _llama(self, stack: ExitStack, model: LoadedModel) -> Llama | None:
        if self._options.llama_python is None:
            return None
        llama = stack.enter_context(
            Llama(
                self._options.llama_python,
                model.model,
                threads=self._options.threads,
                sequences=ROWS,
            )
        )
        self._report.note("xllamacpp", llama.version)
        return llama

    def _throughput(
        self,
        engine: Engine,
        peer: Transformers,
        genai: GenAi | None,
        llama: Llama | None,
        batch: int,
    ) -> None:
        label = f"{self._name}_b{batch}_c{CONTEXT}"
        # Each side in the faster of the two types that this processor offers it.
        dtype = peer.faster_dtype(self._prompts(batch), self._new_tokens // 4)
        self._report.note(f"transformers_dtype_{label}", dtype)

        contestants = {
            "engine": self._ours(engine, lambda: self._prompts(batch)),
            "generate": lambda: _rate(
                peer.generate(self._prompts(batch), self._new_tokens, dtype=dtype)
            ),
        }
        if batch > 1 and not self._options.no_continuous_batching:
            contestants["cb"] = lambda: _rate(
                peer.continuous_batching(self._prompts(batch), self._new_tokens, dtype=dtype)
            )
        if genai is not None:
            contestants["genai"] = lambda: _rate(
                genai.generate(self._prompts(batch), self._new_tokens)
            )
        if llama is not None:
            contestants["llama"] = lambda: _rate(
                llama.generate(self._prompts(batch), self._new_tokens)
            )
        samples = interleave(contestants, self._options.rounds)
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_{label}_tokens_per_second", values)
        for contestant in samples.keys() - {"engine"}:
            # The engine's own benchmark has the first two on either runner.
            suffix = "" if contestant in ("genai", "llama") else "_ov"
            figure = f"{contestant}_{label}{suffix}"
            self._report.figure(figure, ratio(samples, "engine", contestant))

    def _prefix(self, stack: ExitStack, engine: Engine, genai: GenAi) -> None:
        """Decode prompts that begin with the same tokens, whose keys and values are cached."""
        engines = {"engine": engine}
        if not has_bf16():
            engines["cascade"] = stack.enter_context(
                Engine(engine.model, runner="openvino", max_groups=ROWS, cascade_attention=True)
            )
        (head,) = self._prompts(1, PREFIX)

        def prompts() -> list[list[int]]:
            return [head + tail for tail in self._prompts(ROWS, 32)]

        contestants = {name: self._ours(one, prompts) for name, one in engines.items()}
        contestants["genai"] = lambda: _rate(genai.generate(prompts(), self._new_tokens))
        samples = interleave(contestants, self._options.rounds)
        label = f"{self._name}_b{ROWS}_prefix1k"
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_{label}_tokens_per_second", values)
        for name in engines:
            suffix = "" if name == "engine" else f"_{name}"
            self._report.figure(f"genai_{label}{suffix}", ratio(samples, name, "genai"))

    def _ours(self, engine: Engine, prompts: Callable[[], list[list[int]]]) -> Callable[[], float]:
        """Return what measures the engine's tokens per second on fresh prompts."""

        def rate() -> float:
            asked = prompts()
            start = perf_counter()
            tokens = engine.run(asked, self._new_tokens)
            return tokens / (perf_counter() - start)

        return rate

    def _decode(self, engine: Engine, clock: DecodeClock, genai: GenAi) -> None:
        shares = []

        def ours() -> float:
            clock.reset()
            engine.run(self._prompts(ROWS), self._new_tokens)
            step, share = clock.take()
            shares.append(share)
            return step

        contestants = {
            "engine": ours,
            "genai": lambda: genai.decode_step(self._prompts(ROWS), self._new_tokens),
        }
        samples = interleave(contestants, self._options.rounds)
        label = f"{self._name}_b{ROWS}"
        for contestant, values in samples.items():
            self._report.detail(f"{contestant}_decode_{label}_seconds", values)
        self._report.figure(f"genai_decode_{label}", ratio(samples, "genai", "engine"))
        # The first round does not count.
        self._report.figure(f"overhead_{label}", median(shares[1:]))

    def _lag(self, engine: Engine) -> None:
        """Wake an event loop every few milliseconds while the engine works; how late was it?"""
        late: list[float] = []
        for _ in range(self._options.rounds):
            prompts = self._prompts(ROWS)
            late += lateness(partial(engine.run, prompts, self._new_tokens))
        for percent in (50, 99):
            milliseconds = float(np.percentile(late, percent)) * 1000
            self._report.figure(f"loop_lag_p{percent}_ms_{self._name}", milliseconds)


def _rate(answer: dict[str, float]) -> float:
    return answer["tokens"] / answer["seconds"]


if __name__ == "__main__":
    main()
