"""Functions of a kernel that are compiled once each, and called."""

from collections.abc import Callable
from typing import Any

import triton


def outlined(function: Callable[..., Any]) -> Any:
    """Like `triton.jit`, but the function is not copied into each of its callers.

    One of Triton's passes looks, for each access to memory, at everything its function computes
    from it or for it: what is called instead of copied is not looked at there. Arguments and
    results are single numbers and pointers.
    """
    return triton.jit(function, noinline=True)
