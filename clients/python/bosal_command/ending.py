"""How a process ends: what it promised for its end is done, and nothing is taken apart."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["prompt_end"]


@contextmanager
def prompt_end() -> Iterator[None]:
    """Spare a process that ends by SystemExit within what Python destroys before it ends.

    To walk through all that torch and OpenVINO made, and to free it, takes seconds. As ever threads
    are waited for first and then what is registered with `atexit` is called, the last first: enter
    this before anything registers that must be called.
    """
    codes: list[int] = []
    atexit.register(_end, codes)
    try:
        yield
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            codes.append(ended.code or 0)
        raise
    codes.append(0)


def _end(codes: list[int]) -> None:
    if not codes:
        return
    # An output that cannot be written is Python's to tell of.
    for output in (sys.stdout, sys.stderr):
        if output is not None:
            output.flush()
    os._exit(codes[-1])
