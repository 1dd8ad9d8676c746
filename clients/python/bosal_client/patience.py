"""Trying a refused call again when the server says so, for as long as its caller will wait.

Only a call that was turned away for want of room or quota, before its first message, is tried
again; it keeps its request id, so that it is one exposure of an experiment however often it comes.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Event
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio

from bosal_client.errors import BosalError, Cancelled, InvalidRequest, Overloaded, from_rpc_error

__all__ = ["AsyncTriedCall", "TriedCall", "Waits", "checked_patience"]

# Of the server's delay: many are told the same, and should not all come at once.
_SPREAD: Final = 0.25
_SHORTEST_SECONDS: Final = 0.05


def checked_patience(seconds: float) -> float:
    """Return how long calls may be tried again.

    Raises:
        InvalidRequest: it is no time.
    """
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise InvalidRequest(
            f"retry_seconds: seconds, 0 for none, not {seconds!r:.60}", field="retry_seconds"
        )
    return float(seconds)


class Waits:
    """How long one call has left, and the pauses between its tries."""

    def __init__(
        self,
        patience: float,
        timeout: float | None,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._deadline = None if timeout is None else clock() + timeout
        self._until = clock() + patience

    @property
    def timeout(self) -> float | None:
        """What is left of the call's time, all its tries together."""
        return None if self._deadline is None else max(self._deadline - self._clock(), 0.0)

    def pause(self, failure: BosalError) -> float | None:
        """Return the seconds until the next try; None: there is none.

        It is never earlier than the server says, and never so late that it could not be answered.
        """
        if not isinstance(failure, Overloaded) or failure.retry_after is None:
            return None
        seconds = max(failure.retry_after, _SHORTEST_SECONDS) * (1 + _SPREAD * self._chance())
        again = self._clock() + seconds
        if again > self._until or (self._deadline is not None and again >= self._deadline):
            return None
        return seconds


class TriedCall:
    """A blocking call's messages; until the first has come it may be begun anew."""

    def __init__(self, begin: Callable[[float | None], Any], waits: Waits) -> None:
        """`begin` takes what is left of the timeout."""
        self._begin = begin
        self._waits = waits
        self._has_message = False
        self._is_cancelled = Event()
        self._call = begin(waits.timeout)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                message = next(self._call)
            except grpc.RpcError as error:
                pause = None if self._has_message else self._waits.pause(from_rpc_error(error))
                if pause is None:
                    raise
            else:
                self._has_message = True
                return message
            if self._is_cancelled.wait(pause):
                raise Cancelled("the call was cancelled")
            self._call = self._begin(self._waits.timeout)
            if self._is_cancelled.is_set():  # Meanwhile, by another thread.
                self._call.cancel()

    def cancel(self) -> None:
        self._is_cancelled.set()
        self._call.cancel()


class AsyncTriedCall:
    """A call's messages; until the first has come it may be begun anew."""

    def __init__(self, begin: Callable[[float | None], Any], waits: Waits) -> None:
        """`begin` takes what is left of the timeout."""
        self._begin = begin
        self._waits = waits
        self._has_message = False
        self._is_cancelled = asyncio.Event()
        self._call = begin(waits.timeout)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF`."""
        while True:
            try:
                message = await self._call.read()
            except grpc.RpcError as error:
                pause = None if self._has_message else self._waits.pause(from_rpc_error(error))
                if pause is None:
                    raise
            else:
                self._has_message = True
                return message
            try:
                async with asyncio.timeout(pause):
                    await self._is_cancelled.wait()
            except TimeoutError:
                self._call = self._begin(self._waits.timeout)
            else:
                raise Cancelled("the call was cancelled")

    def cancel(self) -> None:
        self._is_cancelled.set()
        self._call.cancel()
