"""Ends streams whose reader takes nothing, at little cost to those whose reader does."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

from bosal_server.request_errors import ReaderStalled


class StallWatch:
    """One stream's writes; entered by the task that makes them.

    There is one timer for the stream, not one for each message: it looks how long the write that
    is under way has been so.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._writing_since: float | None = None
        self._has_stalled = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def write(self, message: Awaitable[object]) -> None:
        """Wait until a message has found room in the transport's window.

        Raises:
            ReaderStalled: it has not for too long.
        """
        self._writing_since = self._loop.time()
        try:
            await message
        except asyncio.CancelledError:
            # Cancelled by somebody else too: theirs counts.
            if self._has_stalled and self._task is not None and not self._task.uncancel():
                assert self._seconds is not None
                raise ReaderStalled(self._seconds) from None
            raise
        finally:
            self._writing_since = None

    def _look(self) -> None:
        assert self._seconds is not None
        now = self._loop.time()
        since = self._writing_since
        if since is not None and now >= since + self._seconds:
            self._has_stalled = True
            if self._task is not None:
                self._task.cancel()
            return
        due = (now if since is None else since) + self._seconds
        self._timer = self._loop.call_at(due, self._look)
