"""How much Python a call runs, where a test must not measure time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(slots=True)
class Count:
    """Lines executed, loops counted as often as they go round."""

    lines: int = 0


@contextmanager
def lines_executed() -> Iterator[Count]:
    """Count the lines of Python that this thread runs within."""
    count = Count()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        count.lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)
