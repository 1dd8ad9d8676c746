"""Import this first in a script that runs kernels in Triton's interpreter: it makes that faster.

The interpreter patches the language at every call of a device function from another, although the
kernel's launch has done so already: half of a small test's time.
"""

import os
from typing import Any

assert os.environ["TRITON_INTERPRET"] == "1"
from triton.runtime import interpreter  # noqa: E402


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function.rewrite()(*args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call
