"""What a channel is told: retries for our services, no proxy on the way to this machine."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from bosal.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from bosal_client import AsyncClient, Client, Unavailable
from bosal_client.calls import channel_options


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
