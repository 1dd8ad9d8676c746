"""Those who connect and do not behave: they idle, drip headers, or are gone without a word."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

# HTTP/2's preface and an empty SETTINGS frame.
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HEADERS, _CONTINUATION = 1, 9
# A literal header field that is not indexed, its name one byte and its value eight.
_FIELD: Final = b"\x00\x01x\x08" + b"y" * 8


def endpoint(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def idle(address: str, number: int) -> list[socket.socket]:
    """Open connections that greet, and never say anything again."""
    connections = []
    for _ in range(number):
        connection = socket.create_connection(endpoint(address), timeout=30)
        connections.append(connection)
        # One too many is closed as it comes.
        with suppress(OSError):
            connection.sendall(_HELLO)
    return connections


def num_closed(connections: Iterable[socket.socket]) -> int:
    """Count those the server has closed."""
    return sum(map(_is_closed, connections))


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(2**16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class Slowloris:
    """Connections that each begin a call's headers and then send them a byte at a time."""

    def __init__(self, address: str, number: int) -> None:
        self._connections = idle(address, number)
        self._rest = _FIELD * 100
        self._sent = 0
        for connection in self._connections:
            connection.sendall(_frame(_HEADERS, len(self._rest)))

    def drip(self) -> None:
        """Send one byte more on each connection; one that the server has closed is passed over."""
        byte = self._rest[self._sent : self._sent + 1]
        self._sent += 1
        for connection in self._connections:
            with suppress(OSError):
                connection.sendall(byte)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def flood_headers(address: str, num_bytes: int) -> None:
    """Send headers that do not end, as fast as they are taken, until the server closes."""
    (connection,) = idle(address, 1)
    with connection:
        fields = _FIELD * 1000
        kind = _HEADERS
        for _ in range(0, num_bytes, len(fields)):
            try:
                connection.sendall(_frame(kind, len(fields)) + fields)
            except OSError:
                return
            kind = _CONTINUATION


def _frame(kind: int, size: int) -> bytes:
    """Return the head of a frame of stream 1 that does not end its headers."""
    return size.to_bytes(3, "big") + bytes((kind, 0, 0, 0, 0, 1))


@asynccontextmanager
async def wire(address: str) -> AsyncIterator["Wire"]:
    """Put a wire that can be cut between a client and a server."""
    made = Wire(*endpoint(address))
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    made.address = f"{host}:{port}"
    try:
        yield made
    finally:
        server.close()
        made.tear()


class Wire:
    """Carries bytes both ways until it falls silent, as when a machine loses its network."""

    address: str

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._carries = asyncio.Event()
        self._carries.set()
        self._is_torn = False
        self._writers: list[asyncio.StreamWriter] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    def fall_silent(self) -> None:
        """Carry nothing more; neither side is told."""
        self._carries.clear()

    def tear(self) -> None:
        """Reset the connections."""
        self._is_torn = True
        self._carries.set()
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                await self._carries.wait()
                if self._is_torn:
                    return
                writer.write(data)
                await writer.drain()
