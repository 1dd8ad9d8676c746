"""Chooses what computes a model: OpenVINO where that is exact and faster, torch everywhere else."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bosal_server.engine.openvino_cache import ConversionCache
from bosal_server.engine.openvino_check import (
    ROUNDED_TOLERANCE,
    CheckReport,
    check,
    num_blocks_needed,
)
from bosal_server.engine.openvino_compiled import CompiledGraph, compile_graph
from bosal_server.engine.openvino_convert import Conversion, convert
from bosal_server.engine.openvino_memory import available_bytes
from bosal_server.engine.openvino_runner import ITEM_SIZES, OpenVinoRunner, bytes_per_token
from bosal_server.engine.openvino_runtime import (
    BLOCK_SIZE,
    OpenVinoRefused,
    has_bf16,
    load_openvino,
)
from bosal_server.engine.runner import ModelRunner
from bosal_server.errors import ModelError
from bosal_server.model import LoadedModel

PREFERENCES = ("auto", "openvino", "torch")
WEIGHTS = ("model", "int8")
KV_CACHES = ("model", "u8")

_DEFAULT_CACHE_BYTES = 4 << 30
_DEFAULT_CACHE_TOKENS = 65_536

_logger = logging.getLogger(__name__)


class OpenVinoNeeded(ModelError):
    """Raised when what OpenVINO alone can do is asked of the torch runner."""

    reason = "OPENVINO_NEEDED"

    def __init__(self, model: str, options: Sequence[str], why_torch: str) -> None:
        super().__init__(
            f"model '{model}': {' and '.join(options)} needs the OpenVINO runner, "
            f"but torch would serve it: {why_torch}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerChoice:
    """The runner of a model and why it is this one, in words for a log and GetServerInfo."""

    runner: ModelRunner
    reason: str
    # The type it computes in, and what is rounded to eight bits.
    precision: str
    # False once everything it computes from is its own: the model's weights may go.
    needs_torch_weights: bool = True
    # `auto` would have taken OpenVINO, which refused.
    is_fallback: bool = False


def choose_runner(
    model: LoadedModel,
    *,
    preference: str = "auto",
    dtype: str = "auto",
    weights: str = "model",
    kv_cache: str = "model",
    cascade_attention: bool = False,
    cache_tokens: int | None = None,
    threads: int | None = None,
    conversions: Path | None = None,
) -> RunnerChoice:
    """Build the runner of a loaded model.

    `auto` takes OpenVINO on a CPU if the model converts and passes the self-check. `dtype` is what
    OpenVINO computes in, `auto` bfloat16 where the CPU has it; `conversions` is the folder of
    converted models. With that folder, OpenVINO no longer needs the model's torch weights.
    With `cascade_attention` requests attend to a prefix they share once for all of them, if it can.
    `weights` int8 and `kv_cache` u8 are OpenVINO's alone and no longer exact: they are for when the
    memory or its bandwidth is short.

    Raises:
        OpenVinoRefused: `openvino` was asked for by name and cannot serve the model.
        OpenVinoNeeded: torch would serve the model, which can do none of these three.
    """
    if preference not in PREFERENCES:
        raise ValueError(f"unknown runner '{preference}'; known: {', '.join(PREFERENCES)}")
    if weights not in WEIGHTS or kv_cache not in KV_CACHES:
        known = f"weights are one of {', '.join(WEIGHTS)}, kv_cache of {', '.join(KV_CACHES)}"
        raise ValueError(known)

    def on_torch(reason: str, *, is_fallback: bool = False) -> RunnerChoice:
        options = {
            "--weights int8": weights != "model",
            "--kv-cache u8": kv_cache != "model",
            "--cascade-attention": cascade_attention,
        }
        if asked := [option for option, is_asked in options.items() if is_asked]:
            raise OpenVinoNeeded(model.name, asked, reason)
        runner = model.runner(cache_tokens=cache_tokens)
        return RunnerChoice(
            runner=runner, reason=reason, precision=runner.dtype, is_fallback=is_fallback
        )

    if preference == "torch":
        return on_torch("asked for")
    if preference == "auto" and model.device != "cpu":
        return on_torch(f"the model is on {model.device}")
    try:
        candidate = _Candidate(
            model=model,
            dtypes=_resolve_dtypes(model, dtype),
            weights=weights,
            kv_cache=kv_cache,
            cascade_attention=cascade_attention,
            threads=threads,
            conversions=conversions,
        )
        return candidate.build(cache_tokens)
    except OpenVinoRefused as refusal:
        if preference == "openvino":
            raise
        choice = on_torch(str(refusal), is_fallback=True)
        _logger.warning("model '%s' runs on torch: %s", model.name, refusal)
        return choice


def _resolve_dtypes(model: LoadedModel, dtype: str) -> tuple[str, ...]:
    """Return the types to compute in, the first that works.

    Raises:
        OpenVinoRefused: the one asked for is not computed in here.
    """
    load_openvino()
    if model.device != "cpu":
        raise OpenVinoRefused(f"the model is on {model.device}")
    if dtype == "auto":
        return ("bfloat16", "float32") if has_bf16() else ("float32",)
    if dtype not in ITEM_SIZES:
        raise OpenVinoRefused(f"it is to compute in {dtype}; known: {', '.join(ITEM_SIZES)}")
    if dtype == "bfloat16" and not has_bf16():
        cause = "this processor has no instructions for"
        raise OpenVinoRefused(f"it is to compute in bfloat16, which {cause}")
    return (dtype,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A model to be run on OpenVINO, if all goes well."""

    model: LoadedModel
    dtypes: tuple[str, ...]
    weights: str
    kv_cache: str
    cascade_attention: bool
    threads: int | None
    conversions: Path | None

    def build(self, cache_tokens: int | None) -> RunnerChoice:
        _require_memory(self._num_bytes(self.dtypes[0], cache_tokens))
        with _refusing():
            conversion, source = self._fetch()
        for dtype in self.dtypes[:-1]:
            try:
                return self._build(conversion, source, dtype, cache_tokens)
            except OpenVinoRefused as refusal:
                _logger.info("model '%s' not in %s: %s", self.model.name, dtype, refusal.cause)
        return self._build(conversion, source, self.dtypes[-1], cache_tokens)

    def _build(
        self, conversion: Conversion, source: str, dtype: str, cache_tokens: int | None
    ) -> RunnerChoice:
        _require_memory(self._num_bytes(dtype, cache_tokens))
        num_tokens = self._cache_tokens(dtype) if cache_tokens is None else cache_tokens
        with _refusing():
            graph, report = self._checked_graph(
                conversion, dtype, weights=self.weights, kv_cache=self.kv_cache
            )
            runner = OpenVinoRunner(graph, num_blocks=max(-(-num_tokens // BLOCK_SIZE), 1))
        return RunnerChoice(
            runner=runner,
            reason="; ".join([source, *["cascade attention"] * graph.cascades, str(report)]),
            precision=self._precision(runner.dtype),
            needs_torch_weights=conversion.owner is not None,
        )

    def _precision(self, dtype: str) -> str:
        parts = [dtype]
        if self.weights != "model":
            parts.append(f"{self.weights} weights")
        if self.kv_cache != "model":
            parts.append(f"{self.kv_cache} key-value cache")
        return " with ".join([parts[0], " and ".join(parts[1:])]) if parts[1:] else dtype

    def _bytes_per_token(self, dtype: str) -> int:
        return bytes_per_token(
            self.model.layers, dtype, kv_cache=self.kv_cache, cascades=self.cascade_attention
        )

    def _cache_tokens(self, dtype: str) -> int:
        return min(_DEFAULT_CACHE_TOKENS, _DEFAULT_CACHE_BYTES // self._bytes_per_token(dtype))

    def _num_bytes(self, dtype: str, cache_tokens: int | None) -> int:
        num_tokens = self._cache_tokens(dtype) if cache_tokens is None else cache_tokens
        weights = self.model.num_parameters * ITEM_SIZES[dtype]
        return weights + num_tokens * self._bytes_per_token(dtype)

    def _fetch(self) -> tuple[Conversion, str]:
        if self.conversions is None:
            return self._convert(), "converted"
        return ConversionCache(self.conversions).fetch(
            digest=self.model.digest, dtype=self.model.dtype, convert=self._convert
        )

    def _convert(self) -> Conversion:
        """Convert; what bfloat16 would blur is checked once in float32, where torch has that."""
        conversion = convert(self.model.model)
        if self.model.dtype == "float32":
            self._checked_graph(conversion, "float32")
        return conversion

    def _checked_graph(
        self, conversion: Conversion, dtype: str, *, weights: str = "model", kv_cache: str = "model"
    ) -> tuple[CompiledGraph, CheckReport]:
        """Compile, and compare with torch; a prefix is shared there wherever there is one."""
        num_blocks = num_blocks_needed(BLOCK_SIZE)
        is_rounded = (weights, kv_cache) != ("model", "model")
        graph = compile_graph(
            conversion,
            dtype=dtype,
            weights=weights,
            kv_cache=kv_cache,
            cascade_attention=self.cascade_attention,
            threads=self.threads,
        )
        with (
            closing(OpenVinoRunner(graph, num_blocks=num_blocks, min_spared=1)) as runner,
            closing(self.model.runner(cache_tokens=num_blocks * BLOCK_SIZE)) as reference,
        ):
            report = check(
                runner,
                reference,
                context_tokens=self.model.context_tokens,
                num_parameters=self.model.num_parameters,
                tolerance=ROUNDED_TOLERANCE if is_rounded else None,
            )
        return graph, report


@contextmanager
def _refusing() -> Iterator[None]:
    """Take whatever OpenVINO and its plugins raise for a refusal: torch can serve the model."""
    try:
        yield
    except OpenVinoRefused:
        raise
    except Exception as error:
        _logger.debug("OpenVINO failed", exc_info=True)
        raise OpenVinoRefused(f"{type(error).__name__}: {error}") from error


def _require_memory(needed: int) -> None:
    available = available_bytes()
    if available is not None and needed > available:
        raise OpenVinoRefused(
            f"its weights and key-value blocks need {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are left"
        )
