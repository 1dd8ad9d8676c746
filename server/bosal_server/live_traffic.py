"""How many requests somebody waits for; whatever nobody waits for makes way."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["LiveTraffic"]


class LiveTraffic:
    """Counts live requests; belongs to one event loop."""

    def __init__(self) -> None:
        self._num = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        # Called when a live request comes, before it is told to the engine.
        self.on_request: Callable[[], None] = lambda: None

    @property
    def is_busy(self) -> bool:
        return self._num > 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold while somebody waits for an answer."""
        self._num += 1
        self._is_quiet.clear()
        self.on_request()
        try:
            yield
        finally:
            self._num -= 1
            if not self._num:
                self._is_quiet.set()

    async def quiet(self, seconds: float) -> None:
        """Wait until nobody has waited for so long."""
        while True:
            await self._is_quiet.wait()
            await asyncio.sleep(seconds)
            if self._is_quiet.is_set():
                return
