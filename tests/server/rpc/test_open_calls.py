"""Calls without a key: few at once, and none that waits for a message that does not come."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bosal_server.metrics import Metrics
from bosal_server.rpc.health import HealthService
from bosal_server.rpc.interceptors import Boundary
from bosal_server.rpc.open_calls import OpenCalls

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def channel_to(calls: OpenCalls) -> AsyncIterator[Any]:
    boundary = Boundary(Metrics(), max_request_bytes=1024)
    boundary._open = calls
    server = grpc.aio.server(interceptors=[boundary])
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def outcome(call: Awaitable[object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def run(scene: Callable[[Any], Awaitable[None]], calls: OpenCalls) -> None:
    async def play() -> None:
        async with channel_to(calls) as channel:
            await asyncio.wait_for(scene(channel), 60)

    asyncio.run(play())


def test_watches_beyond_the_bound_are_refused_until_one_leaves() -> None:
    async def scene(channel: Any) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        assert await outcome(stub.Check(health_pb2.HealthCheckRequest())) is (
            grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        watches[0].cancel()
        # The server hears of it in its own time.
        check = stub.Check
        for _ in range(1000):
            if await outcome(check(health_pb2.HealthCheckRequest())) is grpc.StatusCode.OK:
                break
        assert (await check(health_pb2.HealthCheckRequest())).status == SERVING

    run(scene, OpenCalls(max_calls=3))


def test_a_call_whose_message_never_comes_is_ended() -> None:
    async def scene(channel: Any) -> None:
        call = channel.stream_unary(CHECK)()
        assert await outcome(call) is grpc.StatusCode.DEADLINE_EXCEEDED

    run(scene, OpenCalls(message_seconds=0.05))


def test_a_call_without_a_message_and_one_with_nonsense_are_refused() -> None:
    async def scene(channel: Any) -> None:
        for method in (CHECK, WATCH):
            silent = channel.stream_unary(method)(iter(()))
            assert await outcome(silent) is grpc.StatusCode.INVALID_ARGUMENT
            wrong = channel.unary_unary(method)(b"\xff\xff")
            assert await outcome(wrong) is grpc.StatusCode.INVALID_ARGUMENT
        unknown = channel.unary_unary(CHECK)(b"\x0a\x01x")
        assert await outcome(unknown) is grpc.StatusCode.NOT_FOUND

    run(scene, OpenCalls())
