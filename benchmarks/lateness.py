"""How late an event loop is that wakes every few milliseconds beside other work."""

import asyncio
from collections.abc import Callable
from threading import Thread

# How often it wants to be woken, in seconds.
_TICK = 0.005


def lateness(work: Callable[[], object]) -> list[float]:
    """Return how many seconds late each tick was while `work` ran in a thread."""
    late: list[float] = []

    async def tick(worker: Thread) -> None:
        loop = asyncio.get_running_loop()
        while worker.is_alive():
            due = loop.time() + _TICK
            await asyncio.sleep(_TICK)
            late.append(loop.time() - due)

    worker = Thread(target=work)
    worker.start()
    asyncio.run(tick(worker))
    worker.join()
    return late
