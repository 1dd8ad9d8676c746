"""Calls that are opened and never ask: few of one key at once, and none for long."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import errors
from bosal_server.metrics import Metrics
from bosal_server.rpc.arrivals import Arrivals
from bosal_server.rpc.interceptors import Boundary
from bosal_server.security.access import Access
from bosal_server.security.caller import Scope
from bosal_server.security.keys import make_key, save_keys

UNARY, STREAM = (f"/bosal.v1.GenerationService/{name}" for name in ("Generate", "GenerateStream"))
ASKED = pb.GenerateRequest(spec=pb.GenerationSpec(instruction="Hi")).SerializeToString()


class Service(generation_pb2_grpc.GenerationServiceServicer):
    """Answers."""

    async def Generate(self, request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        return pb.GenerateResponse(started=pb.Started(request_id=request.spec.instruction))

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: object
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        yield pb.GenerateStreamResponse(started=pb.Started(request_id=request.spec.instruction))


@asynccontextmanager
async def channel_to(arrivals: Arrivals, access: Access | None = None) -> AsyncIterator[Any]:
    boundary = Boundary(Metrics(), max_request_bytes=1024, access=access)
    server = grpc.aio.server(interceptors=[arrivals, boundary])
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Service(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def run(
    scene: Callable[[Any], Awaitable[None]], arrivals: Arrivals, access: Access | None = None
) -> None:
    async def play() -> None:
        async with channel_to(arrivals, access) as channel:
            await asyncio.wait_for(scene(channel), 60)

    asyncio.run(play())


def silent(channel: Any, method: str, metadata: Sequence[tuple[str, str]] = ()) -> Any:
    """Open a call that sends its headers and nothing else."""
    return channel.stream_stream(method)(metadata=metadata)


async def failure(call: Any) -> errors.BosalError:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        async for _ in call:
            pass
    return errors.from_rpc_error(found.value)


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_a_call_that_asks_is_answered(method: str) -> None:
    async def scene(channel: Any) -> None:
        (answer,) = [one async for one in channel.unary_stream(method)(ASKED)]
        kind = pb.GenerateResponse if method == UNARY else pb.GenerateStreamResponse
        assert kind.FromString(answer).started.request_id == "Hi"

    run(scene, Arrivals(max_calls=1, max_request_bytes=1024))


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_a_call_whose_message_never_comes_is_ended(method: str) -> None:
    async def scene(channel: Any) -> None:
        error = await failure(silent(channel, method))
        assert isinstance(error, errors.DeadlineExceeded)
        assert error.reason == "MESSAGE_LATE"

    run(scene, Arrivals(max_calls=1, max_request_bytes=0, seconds=0.05))


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_a_call_that_ends_without_a_message_is_refused(method: str) -> None:
    async def scene(channel: Any) -> None:
        error = await failure(channel.stream_stream(method)(iter(())))
        assert isinstance(error, errors.InvalidRequest)
        assert error.reason == "MESSAGE_MISSING"

    run(scene, Arrivals(max_calls=1, max_request_bytes=0))


def test_silent_calls_of_one_key_are_few_and_cost_others_nothing(tmp_path: Path) -> None:
    headers = []
    entries = []
    for name in ("hoarder", "other"):
        text, entry = make_key(name, [Scope.GENERATE])
        headers.append((("authorization", f"Bearer {text}"),))
        entries.append(entry)
    save_keys(tmp_path / "keys.json", entries)
    hoarder, other = headers

    async def scene(channel: Any) -> None:
        calls = [silent(channel, method, hoarder) for method in (UNARY, STREAM, STREAM)]
        # Which of them came last, nobody knows.
        ended = [asyncio.create_task(failure(call)) for call in calls]
        done, waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        error = refused.result()
        assert isinstance(error, errors.Overloaded)
        assert error.reason == "TOO_MANY_UNSENT"
        assert error.retry_after is not None
        assert len(waiting) == 2
        answers = [one async for one in channel.unary_stream(STREAM)(ASKED, metadata=other)]
        assert len(answers) == 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        # The server hears of it in its own time.
        for _ in range(1000):
            try:
                await channel.unary_unary(UNARY)(ASKED, metadata=hoarder)
            except grpc.aio.AioRpcError:
                continue
            break
        await channel.unary_unary(UNARY)(ASKED, metadata=hoarder)

    run(scene, Arrivals(max_calls=2, max_request_bytes=0), Access(tmp_path / "keys.json"))
