"""The asyncio client against a real server."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from tests.live_server import LiveServer

from bosal_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    NotFound,
    TokenBatch,
    Unavailable,
)

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]


Result = TypeVar("Result")


def run(address: str, ask: Callable[[AsyncClient], Awaitable[Result]]) -> Result:
    async def connected() -> Result:
        async with AsyncClient(address) as client:
            return await ask(client)

    return asyncio.run(connected())


def test_both_clients_see_the_same(server: LiveServer, client: Client) -> None:
    async def ask(aio: AsyncClient) -> list[object]:
        return [
            await aio.models(),
            await aio.recipes(),
            await aio.recipe("rules"),
            await aio.rules(),
            await aio.server_info(),
            await aio.tokenize("Hello"),
            await aio.tokenize(prompt="Hello", recipe="rules"),
            # The time the rules take is measured anew.
            replace(
                await aio.validate({"rules": [{"rule": "top_k", "k": 2}]}), control_seconds=None
            ),
            (await aio.generate("Hello", seed=4, max_tokens=12)).choices,
        ]

    assert run(server.address, ask) == [
        client.models(),
        client.recipes(),
        client.recipe("rules"),
        client.rules(),
        client.server_info(),
        client.tokenize("Hello"),
        client.tokenize(prompt="Hello", recipe="rules"),
        replace(client.validate({"rules": [{"rule": "top_k", "k": 2}]}), control_seconds=None),
        client.generate("Hello", seed=4, max_tokens=12).choices,
    ]


def test_a_stream_is_iterated_and_then_asked_for_its_result(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        async with aio.stream("Hello", max_tokens=20, seed=3, request_id="mine") as stream:
            assert stream.request_id == "mine"
            assert (await stream.started()).request_id == "mine"
            batches: list[TokenBatch] = [batch async for batch in stream]
            result = await stream.result()
        assert result.text == "".join(batch.text for batch in batches)

    run(server.address, ask)


def test_a_stream_cancelled_by_another_task_raises(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        stream = aio.stream("Hello", max_tokens=300, overrides=ENDLESS)
        await stream.started()
        asyncio.get_running_loop().call_later(0.05, stream.cancel)
        with pytest.raises(Cancelled):
            await stream.result()

    run(server.address, ask)


def test_cancelling_the_task_cancels_the_call(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        stream = aio.stream("Hello", max_tokens=300, overrides=ENDLESS)
        await stream.started()
        task = asyncio.create_task(stream.result())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(server.address, ask)


def test_a_stream_is_not_read_on_after_its_task_was_cancelled(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        stream = aio.stream("Hello", max_tokens=300, overrides=ENDLESS)
        await stream.started()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await stream.result()
        # Nobody cancels this task any more.
        with pytest.raises(Cancelled):
            await stream.result()

    run(server.address, ask)


def test_a_comparison_is_cancelled_as_a_stream_is(server: LiveServer) -> None:
    recipes: list[str | dict[str, Any]] = [
        "plain",
        {"rules": [{"rule": "temperature", "value": 0.5}]},
    ]

    async def ask(aio: AsyncClient) -> None:
        stream = aio.compare("Hello", recipes, max_tokens=300, overrides=[])
        async with stream:
            await anext(aiter(stream))
        with pytest.raises(Cancelled):
            await stream.result()
        stream = aio.compare("Hello", recipes, max_tokens=400)
        asyncio.get_running_loop().call_soon(stream.cancel)
        with pytest.raises(Cancelled):
            await stream.result()
        stream = aio.compare("Hello", recipes, max_tokens=3)
        result = await stream.result()
        stream.cancel()
        assert await stream.result() == result

    run(server.address, ask)


def test_closing_ends_the_calls_that_run_and_is_said_of_later_ones(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        stream = aio.stream("Hello", max_tokens=300, overrides=ENDLESS)
        await stream.started()
        answer = asyncio.create_task(aio.generate("Hello", max_tokens=300, overrides=ENDLESS))
        await asyncio.sleep(0.05)
        await aio.close()
        await aio.close()
        for waiting in (answer, stream.result()):
            with pytest.raises(Cancelled):
                await waiting
        with pytest.raises(Unavailable, match="the client is closed"):
            await aio.models()
        with pytest.raises(Unavailable, match="the client is closed"):
            aio.stream("Hello")

    run(server.address, ask)


def test_a_client_may_be_made_before_its_loop_and_outlive_it(server: LiveServer) -> None:
    client = AsyncClient(server.address)
    kept: list[object] = []

    async def ask(is_last: bool) -> None:
        kept.append((await client.models())[0].name)
        if is_last:
            await client.close()

    # What a closed loop leaves of grpc's connections is told on standard error, by grpc.
    asyncio.run(ask(False))
    asyncio.run(ask(True))
    assert kept == ["tiny", "tiny"]


def test_a_client_in_two_loops_at_once_is_refused(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        await aio.models()
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(aio.models()))

    run(server.address, ask)


def test_errors_are_typed(server: LiveServer) -> None:
    async def ask(aio: AsyncClient) -> None:
        with pytest.raises(NotFound) as failure:
            await aio.generate("Hello", model="none")
        assert (failure.value.reason, failure.value.field) == ("UNKNOWN_MODEL", "spec.model")
        with pytest.raises(DeadlineExceeded):
            await aio.generate("Hello", max_tokens=400, overrides=ENDLESS, timeout=0.02)

    run(server.address, ask)


def test_an_absent_server_is_unavailable() -> None:
    async def ask(aio: AsyncClient) -> None:
        with pytest.raises(Unavailable):
            await aio.models(timeout=5)

    run("127.0.0.1:1", ask)
