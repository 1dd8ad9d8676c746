"""Many calls at once from one process, as many as were asked for and no more."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable


async def crowd(
    number: int, width: int, one: Callable[[int], Awaitable[str]], until: float = math.inf
) -> Counter[str]:
    """Run `one(0)` to `one(number - 1)`, `width` at a time; count what they return.

    None is begun after `until`, on the clock of `time.monotonic`.
    """
    outcomes: Counter[str] = Counter()
    numbers = iter(range(number))

    async def work() -> None:
        while time.monotonic() < until and (index := next(numbers, None)) is not None:
            outcomes[await one(index)] += 1

    await asyncio.gather(*(work() for _ in range(width)))
    return outcomes
