"""The boundary: every exception becomes a described status, and nothing leaks."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import errors
from bosal_server.call import current_call
from bosal_server.errors import EngineStopped, QueueFull
from bosal_server.metrics import Metrics
from bosal_server.request_errors import MissingField
from bosal_server.rpc.interceptors import Boundary
from bosal_server.rpc.refusal_pace import RefusalPace
from bosal_server.security.access import Access
from bosal_server.security.caller import Scope, current_caller
from bosal_server.security.keys import make_key, save_keys
from bosal_server.trace_context import current_trace

SECRET = "cannot read /etc/shadow"


class Service(generation_pb2_grpc.GenerationServiceServicer):
    """Fails, waits or answers, as its request says."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def Generate(self, request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        match request.spec.instruction:
            case "fault":
                raise RuntimeError(SECRET)
            case "ran":
                call = current_call.get()
                assert call is not None
                call.has_run = True
                raise EngineStopped
            case "domain":
                raise MissingField("instruction", "there is nothing to answer")
        return pb.GenerateResponse()

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: object
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        try:
            yield pb.GenerateStreamResponse()
            if request.spec.instruction == "fault":
                raise RuntimeError(SECRET)
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def Compare(
        self, request: pb.CompareRequest, context: object
    ) -> AsyncGenerator[pb.CompareResponse, None]:
        yield pb.CompareResponse()

    async def Score(self, request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        return pb.ScoreResponse()

    async def Tokenize(self, request: pb.TokenizeRequest, context: object) -> pb.TokenizeResponse:
        self.waiting.set()
        await self.closed.wait()
        return pb.TokenizeResponse()


@asynccontextmanager
async def running(
    service: Service, metrics: Metrics, boundary: Boundary | None = None
) -> AsyncIterator[tuple["generation_pb2_grpc.GenerationServiceAsyncStub", Boundary]]:
    boundary = boundary or Boundary(metrics, max_request_bytes=1000)
    server = grpc.aio.server(interceptors=[boundary])
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel), boundary
    await server.stop(None)


def request(instruction: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        spec=pb.GenerationSpec(instruction=instruction, request_id="request-7")
    )


def errors_counted(metrics: Metrics, method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return metrics.registry.get_sample_value("bosal_errors_total", labels) or 0.0


def test_an_unexpected_exception_says_nothing_but_its_request_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()

    async def call() -> errors.BosalError:
        async with running(Service(), metrics) as (stub, _):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Generate(request("fault"))
            return errors.from_rpc_error(failure.value)

    with caplog.at_level(logging.ERROR):
        error = asyncio.run(call())
    assert isinstance(error, errors.InternalError)
    assert error.metadata == {"request_id": "request-7"}
    assert "shadow" not in error.message
    assert "Runtime" not in error.message
    assert "request-7" in caplog.text
    assert SECRET in caplog.text
    assert errors_counted(metrics, "Generate", "INTERNAL") == 1


def test_a_call_that_is_refused_is_traced_unless_its_request_ran() -> None:
    refusals: list[tuple[str, str, BaseException]] = []

    async def call(instruction: str) -> None:
        boundary = Boundary(
            Metrics(),
            max_request_bytes=1000,
            trace_refusal=lambda method, call, error: refusals.append(
                (method, call.request_id, error)
            ),
        )
        async with running(Service(), Metrics(), boundary) as (stub, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Generate(request(instruction))

    for instruction in ("domain", "ran"):
        asyncio.run(call(instruction))
    ((method, request_id, error),) = refusals
    assert (method, request_id) == ("Generate", "request-7")
    assert isinstance(error, MissingField)


def test_who_is_refused_again_and_again_is_answered_at_a_pace() -> None:
    metrics = Metrics()

    async def call(count: int) -> None:
        pace = RefusalPace(lambda: True, metrics.count_held)
        boundary = Boundary(metrics, max_request_bytes=1000, pace=pace)
        async with running(Service(), metrics, boundary) as (stub, _):
            calls = [stub.Generate(request("domain")) for _ in range(count)]
            for one in calls:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await one
                assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(call(10))
    assert not metrics.registry.get_sample_value("bosal_held_refusals_total")
    asyncio.run(call(30))
    assert metrics.registry.get_sample_value("bosal_held_refusals_total")
    assert errors_counted(metrics, "Generate", "INVALID_ARGUMENT") == 40


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_door_turns_a_request_away_before_its_service_hears_of_it(is_stream: bool) -> None:
    metrics = Metrics()
    seen: list[tuple[str, float | None]] = []
    traces: list[object] = []

    def door(request: pb.GenerateRequest | pb.GenerateStreamRequest, left: float | None) -> None:
        assert current_trace.get() == {"traceparent": "00-a-b-01"}
        seen.append((request.spec.instruction, left))
        raise QueueFull(waiting="3 requests", limit="3 requests", retry_after=1.5)

    class Unheard(Service):
        async def Generate(self, *_: object) -> pb.GenerateResponse:
            raise AssertionError

        def GenerateStream(self, *_: object) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
            raise AssertionError

    async def call() -> grpc.aio.AioRpcError:
        service = "/bosal.v1.GenerationService"
        boundary = Boundary(
            metrics,
            max_request_bytes=1000,
            trace_refusal=lambda method, call, error: traces.append(call.request_id),
            doors={f"{service}/Generate": door, f"{service}/GenerateStream": door},
        )
        trace = (("traceparent", "00-a-b-01"),)
        async with running(Unheard(), metrics, boundary) as (stub, _):
            answer: Awaitable[object]
            if is_stream:
                asked = pb.GenerateStreamRequest(spec=request("Hi").spec)
                answer = stub.GenerateStream(asked, timeout=30, metadata=trace).read()
            else:
                answer = stub.Generate(request("Hi"), timeout=30, metadata=trace)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await answer
            return failure.value

    failure = asyncio.run(call())
    error = errors.from_rpc_error(failure)
    assert (error.reason, error.retry_after) == ("QUEUE_FULL", 1.5)
    assert ("grpc-retry-pushback-ms", "1500") in tuple(failure.trailing_metadata() or ())
    ((instruction, left),) = seen
    assert instruction == "Hi"
    assert left is not None
    assert 0 < left <= 30
    assert traces == ["request-7"]
    method = "GenerateStream" if is_stream else "Generate"
    assert errors_counted(metrics, method, "RESOURCE_EXHAUSTED") == 1
    refused = metrics.registry.get_sample_value("bosal_refusals_total", {"reason": "QUEUE_FULL"})
    assert refused == 1


def test_a_request_that_is_no_message_is_refused_for_that_and_not_for_room() -> None:
    def door(*_: object) -> None:
        raise QueueFull(waiting="3 requests", limit="3 requests", retry_after=1.5)

    async def call() -> errors.BosalError:
        method = "/bosal.v1.GenerationService/Generate"
        boundary = Boundary(Metrics(), max_request_bytes=1000, doors={method: door})
        async with running(Service(), Metrics(), boundary) as (stub, _):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Generate(request("x" * 2000))
            return errors.from_rpc_error(failure.value)

    assert asyncio.run(call()).reason == "MESSAGE_TOO_LARGE"


def test_callers_of_one_method_are_told_apart(tmp_path: Path) -> None:
    keys = [make_key(name, [Scope.GENERATE]) for name in ("a", "b")]
    save_keys(tmp_path / "keys.json", [entry for _, entry in keys])
    names: list[str] = []

    class Asked(Service):
        async def Generate(self, *_: object) -> pb.GenerateResponse:
            names.append(current_caller.get().name)
            return pb.GenerateResponse()

    async def call() -> None:
        access = Access(tmp_path / "keys.json")
        boundary = Boundary(Metrics(), max_request_bytes=1000, access=access)
        async with running(Asked(), Metrics(), boundary) as (stub, _):
            for key in (keys[0][0], keys[1][0], keys[0][0]):
                await stub.Generate(request("Hi"), metadata=(("authorization", f"Bearer {key}"),))
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Generate(request("Hi"))
            assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(call())
    assert names == ["a", "b", "a"]


def test_a_stream_that_breaks_ends_with_a_status() -> None:
    async def call() -> tuple[object, errors.BosalError]:
        async with running(Service(), Metrics()) as (stub, _):
            stream = stub.GenerateStream(pb.GenerateStreamRequest(spec=request("fault").spec))
            first = await stream.read()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stream.read()
            return first, errors.from_rpc_error(failure.value)

    first, error = asyncio.run(call())
    assert isinstance(first, pb.GenerateStreamResponse)
    assert isinstance(error, errors.InternalError)
    assert "shadow" not in error.message


def test_a_domain_error_keeps_its_reason_and_field() -> None:
    metrics = Metrics()

    async def call() -> errors.BosalError:
        async with running(Service(), metrics) as (stub, _):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Generate(request("domain"))
            return errors.from_rpc_error(failure.value)

    error = asyncio.run(call())
    assert isinstance(error, errors.InvalidRequest)
    assert (error.reason, error.field) == ("MISSING_FIELD", "instruction")
    assert errors_counted(metrics, "Generate", "INVALID_ARGUMENT") == 1


def test_cancelling_a_stream_closes_its_handler_at_once() -> None:
    metrics = Metrics()

    async def call() -> None:
        service = Service()
        async with running(service, metrics) as (stub, _):
            stream = stub.GenerateStream(pb.GenerateStreamRequest())
            await stream.read()
            await service.waiting.wait()
            stream.cancel()
            await asyncio.wait_for(service.closed.wait(), 10)

    asyncio.run(call())
    assert errors_counted(metrics, "GenerateStream", "CANCELLED") == 1


def test_draining_refuses_new_calls_and_waits_for_running_ones() -> None:
    async def call() -> tuple[errors.BosalError, bool]:
        service = Service()
        async with running(service, Metrics()) as (stub, boundary):
            old = asyncio.ensure_future(stub.Tokenize(pb.TokenizeRequest()))
            await service.waiting.wait()
            draining = asyncio.create_task(boundary.drain())
            await asyncio.sleep(0)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Generate(request("anything"))
            was_done = draining.done()
            service.closed.set()
            await old
            await draining
            return errors.from_rpc_error(failure.value), was_done

    error, was_done = asyncio.run(call())
    assert isinstance(error, errors.Unavailable)
    assert error.reason == "SHUTTING_DOWN"
    assert error.retry_after == 1.0
    assert not was_done
