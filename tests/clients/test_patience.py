"""A call that was turned away is tried again when the server says so, if its caller will wait."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event, Timer
from typing import NoReturn

import grpc
import pytest

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import AsyncClient, Cancelled, Client, InvalidRequest, Overloaded, Unavailable
from bosal_client.errors import BosalError
from bosal_client.patience import Waits
from bosal_server.errors import QueueFull, ServerError
from bosal_server.rpc.status import describe

AFTER = 0.1


class Crowded(generation_pb2_grpc.GenerationServiceServicer):
    """Turns the first calls away."""

    def __init__(self, num_refusals: int, after: float = AFTER) -> None:
        self.request_ids: list[str] = []
        self.times: list[float] = []
        self.is_asked = Event()
        self._num_refusals = num_refusals
        self._error: ServerError = QueueFull(waiting="9", limit="9", retry_after=after)

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> pb.GenerateResponse:
        self._take(request.spec.request_id, context)
        return pb.GenerateResponse()

    def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateStreamResponse]:
        self._take(request.spec.request_id, context)
        yield pb.GenerateStreamResponse(started=pb.Started())
        if request.spec.instruction == "cut":
            self._refuse(context)
        yield pb.GenerateStreamResponse(finished=pb.Finished())

    def _take(self, request_id: str, context: grpc.ServicerContext) -> None:
        self.request_ids.append(request_id)
        self.times.append(time.monotonic())
        self.is_asked.set()
        if len(self.times) <= self._num_refusals:
            self._refuse(context)

    def _refuse(self, context: grpc.ServicerContext) -> NoReturn:
        code, text, trailers = describe(self._error, "")
        context.set_trailing_metadata(trailers)
        context.abort(code, text)


@contextmanager
def served(service: Crowded) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(kind: str, address: str, patience: float, timeout: float | None = None) -> None:
    """Make one call of a kind."""

    async def ask_async() -> None:
        async with AsyncClient(address, retry_seconds=patience) as client:
            if kind == "aio":
                await client.generate("Hi", timeout=timeout)
            else:
                await client.stream("Hi", timeout=timeout).result()

    if kind.startswith("aio"):
        asyncio.run(ask_async())
        return
    with Client(address, retry_seconds=patience) as client:
        if kind == "blocking":
            client.generate("Hi", timeout=timeout)
        else:
            client.stream("Hi", timeout=timeout).result()


KINDS = ("blocking", "blocking stream", "aio", "aio stream")


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_again_no_sooner_than_it_was_told_and_as_the_same_request(kind: str) -> None:
    service = Crowded(2)  # type: ignore[abstract]
    with served(service) as address:
        ask(kind, address, patience=60)
    assert len(service.times) == 3
    first, second, third = service.times
    assert min(second - first, third - second) >= AFTER
    assert len(set(service.request_ids)) == 1
    assert service.request_ids[0]


@pytest.mark.parametrize("kind", KINDS)
def test_without_patience_a_refusal_is_the_answer(kind: str) -> None:
    service = Crowded(1)  # type: ignore[abstract]
    with served(service) as address, pytest.raises(Overloaded) as failure:
        ask(kind, address, patience=0)
    assert failure.value.retry_after == AFTER
    assert len(service.times) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("patience", "timeout"), [(1, None), (3600, 30)])
def test_what_would_come_too_late_fails_at_once(
    kind: str, patience: float, timeout: float | None
) -> None:
    """With the refusal, not with a deadline that passed while it slept."""
    service = Crowded(1, after=1000)  # type: ignore[abstract]
    with served(service) as address, pytest.raises(Overloaded):
        ask(kind, address, patience, timeout)
    assert len(service.times) == 1


def test_what_has_begun_is_not_begun_again() -> None:
    service = Crowded(0)  # type: ignore[abstract]

    async def read(address: str) -> None:
        async with AsyncClient(address, retry_seconds=60) as client:
            await client.stream("cut").result()

    with served(service) as address:
        with Client(address, retry_seconds=60) as client, pytest.raises(Overloaded):
            client.stream("cut").result()
        with pytest.raises(Overloaded):
            asyncio.run(read(address))
    assert len(service.times) == 2


def test_a_pause_ends_when_the_stream_is_cancelled_or_the_client_closed() -> None:
    service = Crowded(9, after=1000)  # type: ignore[abstract]

    async def cancelled(address: str) -> None:
        async with AsyncClient(address, retry_seconds=10_000) as client:
            stream = client.stream("Hi")
            asyncio.get_running_loop().call_later(0.2, stream.cancel)
            await stream.result()

    with served(service) as address:
        for end in ("cancel", "close"):
            client = Client(address, retry_seconds=10_000)
            stream = client.stream("Hi")
            timer = Timer(0.2, stream.cancel if end == "cancel" else client.close)
            timer.start()
            with pytest.raises(Cancelled):
                stream.result()
            timer.join()
            client.close()
        client = Client(address, retry_seconds=10_000)
        service.is_asked.clear()
        timer = Timer(0.2, client.close)
        timer.start()
        with pytest.raises((Unavailable, Cancelled)):
            client.generate("Hi")
        timer.join()
        with pytest.raises(Cancelled):
            asyncio.run(cancelled(address))


@pytest.mark.parametrize("patience", [-1, float("nan"), "3"])
def test_a_patience_that_is_no_time_is_refused(patience: float) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidRequest) as failure:
            kind("127.0.0.1:1", retry_seconds=patience)
        assert failure.value.field == "retry_seconds"


def refusal(after: float | None) -> Overloaded:
    return Overloaded("full", retry_after=after)


def test_tries_end_when_patience_or_the_timeout_does() -> None:
    now = [0.0]
    for timeout, last in ((None, 10), (5, 4)):
        now[0] = 0.0
        waits = Waits(10, timeout, clock=lambda: now[0], chance=lambda: 0.0)
        num_pauses = 0
        while (pause := waits.pause(refusal(1.0))) is not None:
            assert pause == 1.0
            now[0] += pause
            num_pauses += 1
        assert num_pauses == last
    assert waits.timeout == 1


def test_many_that_are_told_the_same_come_apart_and_never_early() -> None:
    pauses = [
        Waits(100, None, clock=lambda: 0.0, chance=partial(float, chance / 4)).pause(refusal(2.0))
        for chance in range(4)
    ]
    assert pauses == sorted(set(pauses), key=lambda one: one or 0)
    assert min(one or 0 for one in pauses) == 2.0
    assert max(one or 9 for one in pauses) < 2.6


@pytest.mark.parametrize(
    "failure", [refusal(None), Unavailable("gone", retry_after=1.0), BosalError("no")]
)
def test_other_failures_are_not_tried_again(failure: BosalError) -> None:
    assert Waits(100, None).pause(failure) is None


def test_a_server_that_says_at_once_is_not_asked_without_a_pause() -> None:
    assert (Waits(100, None).pause(refusal(0.0)) or 0) > 0
