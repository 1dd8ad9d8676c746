"""What a connection is told, and what becomes of one that fails or falls silent."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from threading import Thread
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from bosal_client import AsyncClient, Client, InvalidRequest, Unavailable
from bosal_client.client import ChannelClient
from bosal_client.connection import channel_options


class Flaky(model_pb2_grpc.ModelServiceServicer):
    """Is unavailable for the first calls."""

    def __init__(self, num_failures: int, code: grpc.StatusCode) -> None:
        self.num_calls = 0
        self._num_failures = num_failures
        self._code = code

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        self.num_calls += 1
        if self.num_calls <= self._num_failures:
            context.abort(self._code, "not now")
        return model_pb2.ListModelsResponse()

    def GetServerInfo(
        self, request: model_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetServerInfoResponse:
        return model_pb2.GetServerInfoResponse()


class Cut(generation_pb2_grpc.GenerationServiceServicer):
    """Says all there is to say, and then that it failed."""

    def GenerateStream(
        self, request: generation_pb2.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.GenerateStreamResponse]:
        yield generation_pb2.GenerateStreamResponse(started=generation_pb2.Started())
        yield generation_pb2.GenerateStreamResponse(finished=generation_pb2.Finished())
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


@contextmanager
def served(service: Flaky | Cut) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    if isinstance(service, Cut):
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    else:
        model_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_an_unavailable_server_is_tried_again() -> None:
    service = Flaky(2, grpc.StatusCode.UNAVAILABLE)
    with served(service) as address, Client(address) as client:
        assert client.models() == ()
    assert service.num_calls == 3


def test_retries_end() -> None:
    service = Flaky(100, grpc.StatusCode.UNAVAILABLE)
    with served(service) as address, Client(address) as client, pytest.raises(Unavailable):
        client.models()
    assert service.num_calls == 4


def test_the_retry_policy_names_our_services_only() -> None:
    config = json.loads(str(dict(channel_options("example.org:1"))["grpc.service_config"]))
    (method,) = config["methodConfig"]
    assert {name["service"].rpartition(".")[0] for name in method["name"]} == {"bosal.v1"}


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("10.1.2.3:50051", False),
        ("example.org:443", False),
    ],
)
def test_a_proxy_is_not_asked_for_this_machine(address: str, is_local: bool) -> None:
    assert ("grpc.enable_http_proxy" in dict(channel_options(address))) == is_local


def test_a_failure_behind_the_last_event_is_typed_as_any_other() -> None:
    async def ask(address: str) -> None:
        async with AsyncClient(address) as client, client.stream("Hi") as stream:
            await stream.result()

    with served(Cut()) as address:  # type: ignore[abstract]  # it streams alone
        with (
            Client(address) as client,
            client.stream("Hi") as stream,
            pytest.raises(Unavailable, match="gone"),
        ):
            stream.result()
        with pytest.raises(Unavailable, match="gone"):
            asyncio.run(ask(address))


def greet_and_fall_silent(listener: socket.socket) -> None:
    """Answer as a server whose machine is lost once the connection stands."""
    settings, acknowledged = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
    with closing(listener.accept()[0]) as connection:
        connection.sendall(settings + acknowledged)
        while connection.recv(1 << 16):
            pass


def test_a_server_that_vanishes_ends_the_calls_that_wait_for_it() -> None:
    """A client that only reads would wait for ever: nothing of its own is left undelivered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=greet_and_fall_silent, args=(listener,), daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        options = dict(channel_options(address))
        assert options["grpc.keepalive_time_ms"] == 60_000
        for name in ("keepalive_time_ms", "keepalive_timeout_ms", "http2.ping_timeout_ms"):
            assert f"grpc.{name}" in options
            options[f"grpc.{name}"] = 300
        options["grpc.enable_retries"] = 0
        channel = grpc.insecure_channel(address, list(options.items()))
        with (
            ChannelClient(channel) as client,
            client.stream("Hello", timeout=120) as stream,
            pytest.raises(Unavailable, match="ping"),
        ):
            stream.result()


@pytest.mark.parametrize("server", ["http://127.0.0.1:50051", "https://example.org", ""])
def test_what_is_no_address_of_a_server_is_said_at_once(server: str) -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT|empty") as failure:
        Client(server)
    assert failure.value.field == "server"
    with pytest.raises(InvalidRequest):
        AsyncClient(server)


@pytest.mark.parametrize("key", ["secret\n", "se\u00e4cret", "two words", "\x00secret"])
def test_a_key_that_no_header_may_hold_is_refused_and_not_repeated(key: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidRequest) as failure:
            kind("127.0.0.1:1", api_key=key)
        assert failure.value.field == "api_key"
        assert "cret" not in str(failure.value)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12, 10**30])
def test_a_timeout_without_end_is_none(client: Client, server: LiveServer, timeout: float) -> None:
    async def ask() -> int:
        async with AsyncClient(server.address) as aio:
            return len(await aio.models(timeout=timeout))

    assert len(client.models(timeout=timeout)) == asyncio.run(ask()) == 1
    assert client.stream("Hello", max_tokens=1, timeout=timeout).result().choices


@pytest.mark.parametrize("timeout", [float("nan"), "3"])
def test_a_timeout_that_is_no_time_is_refused(client: Client, timeout: Any) -> None:
    calls: list[Callable[..., object]] = [
        client.models,
        client.experiments.every,
        partial(client.stream, "Hello"),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as failure:
            call(timeout=timeout)
        assert failure.value.field == "timeout"
