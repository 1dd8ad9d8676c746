"""Measures how late the event loop is, and how much it holds."""

import asyncio
from time import perf_counter
from types import TracebackType
from typing import Final, Self

from bosal_server.metrics import Metrics

_PERIOD_SECONDS: Final = 0.05
# Counting tasks takes as long as there are tasks.
_ROUNDS_PER_COUNT: Final = 20


class LoopWatch:
    """A task of the loop it is entered in, which asks to be woken and sees when it is."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            for _ in range(_ROUNDS_PER_COUNT):
                due = perf_counter() + _PERIOD_SECONDS
                await asyncio.sleep(_PERIOD_SECONDS)
                self._metrics.observe_lag(max(0.0, perf_counter() - due))
            self._metrics.count_tasks(len(asyncio.all_tasks()))
