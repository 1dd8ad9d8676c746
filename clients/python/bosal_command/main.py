"""The first line of `bosal`: Ctrl-C is heard while the command itself is still imported."""

import os
import signal
from types import FrameType

from bosal_command.ending import prompt_end

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Import the command line and run it."""
    # Otherwise whoever started it wants no interrupts: `nohup`, or a shell's `&`.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _end)
    with prompt_end():
        from bosal_client import cli

        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has begun, and an exception would be caught or told of by imports."""
    os._exit(_INTERRUPTED)
