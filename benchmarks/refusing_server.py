"""A server without an engine that has room for nobody: what turning a call away costs."""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

import grpc.aio

from benchmarks.light_client import METHOD
from bosal.v1 import generation_pb2_grpc
from bosal_server.core import GenerationCore
from bosal_server.errors import QueueFull
from bosal_server.event_loop import loop_factory
from bosal_server.metrics import Metrics
from bosal_server.rpc.generation_service import GenerationService, doors
from bosal_server.rpc.interceptors import Boundary
from bosal_server.rpc.refusal_pace import RefusalPace
from bosal_server.rpc.status import describe

KINDS: Final = ("bosal", "bare")


def full() -> QueueFull:
    waiting, limit = "64 requests of 2048 tokens", "64 requests"
    return QueueFull(waiting=waiting, limit=limit, retry_after=0.5)


def bosal() -> grpc.aio.Server:
    """Return a server as this project's, whose core refuses every request."""

    def check_room(*_: object) -> NoReturn:
        raise full()

    core = cast(GenerationCore, SimpleNamespace(check_room=check_room))
    metrics = Metrics()
    boundary = Boundary(
        metrics,
        max_request_bytes=1 << 20,
        pace=RefusalPace(lambda: True, metrics.count_held),
        doors=doors(core),
    )
    server = grpc.aio.server(interceptors=[boundary])
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(core), server)
    return server


def bare() -> grpc.aio.Server:
    """Return a server of gRPC alone, which says the same without a look at the request."""
    described = describe(full(), "")

    async def refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(*described)

    handler: Any = grpc.unary_stream_rpc_method_handler(refuse)
    _, service, method = METHOD.split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    return server


async def serve(kind: str) -> None:
    server = {"bosal": bosal, "bare": bare}[kind]()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(sys.argv[1]))
