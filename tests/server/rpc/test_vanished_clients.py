"""A client whose machine is lost, its connection never closed, does not hold its calls."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from bosal_server.config import ServerConfig
from bosal_server.rpc.server import transport_options


class BlackHole:
    """A proxy that carries bytes until it is told to swallow them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_lost = False
        self._writers: list[StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            for writer in self._writers:
                writer.close()

    def swallow(self) -> None:
        self._is_lost = True

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, their_writer]
        for source, sink in ((reader, their_writer), (their_reader, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: StreamReader, sink: StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if not self._is_lost:
                sink.write(data)


def test_the_calls_of_a_client_that_vanished_end_when_a_ping_stays_unanswered() -> None:
    """The handler says nothing, so that no lost answer but the ping's can tell."""
    options = dict(transport_options(ServerConfig()))
    assert options["grpc.keepalive_time_ms"] == 60_000
    for name in ("keepalive_timeout_ms", "http2.ping_timeout_ms"):
        assert options[f"grpc.{name}"] == 20_000
        options[f"grpc.{name}"] = 300
    options["grpc.keepalive_time_ms"] = 300

    async def scene() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def say_nothing(request: bytes, context: Any) -> None:
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return grpc.unary_stream_rpc_method_handler(say_nothing)

        server = grpc.aio.server(options=list(options.items()))
        server.add_generic_rpc_handlers((Handlers(),))
        hole = BlackHole(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        async with hole.open() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_stream("/any/method")
            call = method(b"")
            await begun.wait()
            hole.swallow()
            # Half of the minute that gRPC would wait by itself.
            await asyncio.wait_for(ended.wait(), 30)
            call.cancel()
        await server.stop(None)

    asyncio.run(scene())
