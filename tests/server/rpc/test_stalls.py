"""A write that finds no room ends its stream, after the time it may take and no sooner."""

import asyncio

import pytest

from bosal_server.request_errors import ReaderStalled
from bosal_server.rpc.stalls import StallWatch


async def nothing() -> None:
    await asyncio.sleep(0)


def test_a_stalled_write_ends_and_the_task_lives_on() -> None:
    async def run() -> None:
        with StallWatch(0.02) as watch:
            await watch.write(nothing())
            # The time between writes is the server's own.
            await asyncio.sleep(0.05)
            await watch.write(nothing())
            with pytest.raises(ReaderStalled):
                await watch.write(asyncio.Event().wait())
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_without_a_limit_it_waits() -> None:
    async def run() -> None:
        with StallWatch(None) as watch:
            await watch.write(asyncio.sleep(0.02))

    asyncio.run(run())


def test_a_cancel_of_the_call_stays_one() -> None:
    async def stream(is_writing: asyncio.Event) -> None:
        with StallWatch(60) as watch:
            is_writing.set()
            await watch.write(asyncio.Event().wait())

    async def run() -> None:
        is_writing = asyncio.Event()
        task = asyncio.create_task(stream(is_writing))
        await is_writing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
