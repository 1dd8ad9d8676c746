"""Threads for what requests need before they are queued."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bosal_server.errors import QueueFull

Result = TypeVar("Result")


class Preparation:
    """A bounded number of calls that compile and tokenise; belongs to one event loop."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._num_calls = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="bosal-prepare")

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do in a thread what would hold up the event loop.

        Raises:
            QueueFull: too many calls wait for a thread.
        """
        if self._num_calls >= self._max_calls:
            waiting, limit = f"{self._num_calls} calls", f"{self._max_calls} calls"
            raise QueueFull(waiting=waiting, limit=limit, retry_after=1.0)
        self._num_calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._num_calls -= 1
