"""Streams of reflection: few of one key at once, and none that falls silent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from bosal_server.metrics import Metrics
from bosal_server.rpc.interceptors import Boundary
from bosal_server.rpc.reflections import Reflections
from bosal_server.security.caller import Caller

QUESTION = reflection_pb2.ServerReflectionRequest(list_services="")


class Keys:
    """Takes what a call says of itself for its key."""

    def caller(self, method: str, metadata: Any) -> Caller:
        return Caller(key_id=str(dict(metadata).get("key", "")))


@asynccontextmanager
async def stub_of(streams: Reflections) -> AsyncIterator[Any]:
    keys: Any = Keys()
    boundary = Boundary(Metrics(), max_request_bytes=1024, access=keys)
    boundary._reflections = streams
    server = grpc.aio.server(interceptors=[boundary])
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield reflection_pb2_grpc.ServerReflectionStub(channel)
    finally:
        await server.stop(None)


def run(scene: Callable[[Any], Awaitable[None]], streams: Reflections) -> None:
    async def play() -> None:
        async with stub_of(streams) as stub:
            await asyncio.wait_for(scene(stub), 60)

    asyncio.run(play())


async def asked(stub: Any, key: str = "") -> Any:
    """Open a stream and ask a question; whoever calls this holds it open."""
    stream = stub.ServerReflectionInfo(metadata=(("key", key),))
    await stream.write(QUESTION)
    return stream


async def outcome(stream: Any) -> grpc.StatusCode:
    """What comes of a stream's question."""
    try:
        answer = await stream.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    assert [one.name for one in answer.list_services_response.service]
    return grpc.StatusCode.OK


def test_streams_beyond_the_bound_are_refused_until_one_of_the_key_leaves() -> None:
    async def scene(stub: Any) -> None:
        held = [await asked(stub, "mine") for _ in range(3)]
        assert [await outcome(stream) for stream in held] == [grpc.StatusCode.OK] * 3
        # A stream that is refused may end before its question is written.
        refused = stub.ServerReflectionInfo(metadata=(("key", "mine"),))
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = await asked(stub, "theirs")
        assert await outcome(other) is grpc.StatusCode.OK
        held[0].cancel()
        # The server hears of it in its own time.
        for _ in range(1000):
            again = stub.ServerReflectionInfo(iter([QUESTION]), metadata=(("key", "mine"),))
            if await outcome(again) is grpc.StatusCode.OK:
                break
        else:
            raise AssertionError("no stream was let in again")
        # Those that are open go on.
        await held[1].write(QUESTION)
        assert await outcome(held[1]) is grpc.StatusCode.OK

    run(scene, Reflections(max_calls=3))


def test_a_stream_that_falls_silent_is_ended() -> None:
    async def scene(stub: Any) -> None:
        silent = stub.ServerReflectionInfo()
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        asking = await asked(stub)
        outcomes = [await outcome(asking)]
        if outcomes == [grpc.StatusCode.OK]:
            outcomes.append(await outcome(asking))
        assert outcomes[-1] is grpc.StatusCode.DEADLINE_EXCEEDED

    run(scene, Reflections(silent_seconds=0.3))


def test_whoever_ends_its_side_is_answered_to_the_end_and_holds_nothing() -> None:
    streams = Reflections()

    async def scene(stub: Any) -> None:
        for key in ("one", "other", "one"):
            stream = stub.ServerReflectionInfo(iter([QUESTION] * 5), metadata=(("key", key),))
            assert len([answer async for answer in stream]) == 5
            assert await stream.code() is grpc.StatusCode.OK

    run(scene, streams)
    assert not streams._num_calls
