"""Holds back the refusals of whoever has had many, so that a flood of wrong requests slows itself.

A refusal costs no work but the call itself, and who is refused at once comes back at once: some
hundred calls a second, which together hold Python's lock for most of every step. So while choices
run, a key that is refused again and again gets its answers at a pace. The first few come at once,
and none is late by more than a second. Refusals for want of room, which say when to come back, are
not held, but for room to compile constraints: it is short because keys fill it.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from bosal_decoding.constraints.errors import CompileQueueFull
from bosal_decoding.errors import DecodingError
from bosal_server.errors import ServerError

# The client's own mistakes.
_HELD: Final = frozenset(
    {
        "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNIMPLEMENTED",
        "PERMISSION_DENIED",
    }
)  # fmt: skip
_HELD_REASONS: Final = frozenset({CompileQueueFull.reason})
_PER_SECOND: Final = 20.0
_AT_ONCE: Final = 10
_MAX_SECONDS: Final = 1.0
# Held calls take memory: beyond so many, one is answered at once.
_MAX_HELD: Final = 512


class RefusalPace:
    """When a refusal is answered; belongs to one event loop."""

    def __init__(
        self,
        is_wanted: Callable[[], bool],
        count_held: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`is_wanted` says whether choices run; `count_held` is told of each that is held."""
        self._is_wanted = is_wanted
        self._count_held = count_held
        self._clock = clock
        # By key: when the refusals it has had would all have come at the pace.
        self._until: dict[str, float] = {}
        self._num_held = 0

    def holds(self, error: DecodingError | ServerError) -> bool:
        """Whether a refusal is one of those that come at a pace."""
        return error.code in _HELD or error.reason in _HELD_REASONS

    async def hold(self, key_id: str, remaining: float | None) -> None:
        """Wait until a refusal is due; at most for half of the time the call has left."""
        seconds = self.due(key_id)
        if remaining is not None:
            seconds = min(seconds, remaining / 2)
        if seconds <= 0 or self._num_held >= _MAX_HELD:
            return
        self._count_held()
        self._num_held += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._num_held -= 1

    def due(self, key_id: str) -> float:
        """Note a key's refusal; return in how many seconds it is due."""
        now = self._clock()
        at_once = _AT_ONCE / _PER_SECOND
        until = max(self._until.get(key_id, now), now) + 1 / _PER_SECOND
        self._until[key_id] = min(until, now + at_once + _MAX_SECONDS)
        if not self._is_wanted():
            return 0.0
        return min(max(until - now - at_once, 0.0), _MAX_SECONDS)
