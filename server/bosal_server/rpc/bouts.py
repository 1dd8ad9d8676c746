"""Lets the event loop work in bouts while calls are turned away.

Every call that comes by itself wakes gRPC's thread and the loop's some four times, and each time
the interpreter's lock goes from the engine and back. Calls that are answered together cost half as
much. So while many are turned away the loop sleeps as soon as none came for a moment; what comes
meanwhile is done in one go. Who comes too often for that finds the loop awake.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

# Without a call, before the loop sleeps; and how late everything is by that at most.
_QUIET_SECONDS: Final = 0.001
_SLEEP_SECONDS: Final = 0.01


class Bouts:
    """When the event loop that it is asked on sleeps."""

    def __init__(
        self, is_wanted: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`is_wanted` says whether calls are being turned away for those that run."""
        self._is_wanted = is_wanted
        self._sleep = sleep
        self._num_calls = 0
        self._num_seen = 0
        self._is_looking = False

    def note_call(self) -> None:
        """Note that a call came."""
        self._num_calls += 1

    def note_refusal(self) -> None:
        """Note that there was no room for a call."""
        if not self._is_looking and self._is_wanted():
            self._is_looking = True
            self._look_later()

    def _look_later(self) -> None:
        self._num_seen = self._num_calls
        asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._look)

    def _look(self) -> None:
        if not self._is_wanted():
            self._is_looking = False
            return
        if self._num_calls == self._num_seen:
            self._sleep(_SLEEP_SECONDS)
        self._look_later()
