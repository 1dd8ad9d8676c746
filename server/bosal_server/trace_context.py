"""Where a call belongs in its caller's trace: the W3C headers it came with."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

_HEADERS: Final = frozenset(("traceparent", "tracestate"))
# Of the call that runs in this context; empty: it came with none.
current_trace: ContextVar[Mapping[str, str]] = ContextVar("current_trace", default={})  # noqa: B039


def trace_headers(metadata: Iterable[tuple[str, str | bytes]]) -> Mapping[str, str]:
    """Take the trace's headers out of a call's metadata."""
    return {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
