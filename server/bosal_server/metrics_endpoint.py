"""Serves /metrics."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client

from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.metrics import Metrics

# A scrape takes a tenth of a second; whoever connects and asks nothing holds a thread and a file.
_MAX_CONNECTIONS: Final = 32
_SILENCE_SECONDS: Final = 10.0


@contextmanager
def exported(metrics: Metrics, config: ServerConfig) -> Iterator[str | None]:
    """Serve from a thread of its own; yield the address, None if there is to be none."""
    if config.metrics_port < 0:
        yield None
        return
    host, port = config.metrics_host, config.metrics_port
    try:
        server = _server(host, port)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise InvalidConfig(f"cannot serve metrics at {host}:{port}: {cause}") from None
    server.set_app(prometheus_client.make_wsgi_app(metrics.registry))
    thread = Thread(target=server.serve_forever, name="bosal-metrics", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"{shown}:{server.server_port}"
    finally:
        # Wakes the thread, which by itself looks every half second for whether it is to end.
        with suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)
        server.shutdown()
        server.server_close()
        thread.join()


def _server(host: str, port: int) -> "_Server":
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    # Read by the constructor, from the class.
    kind = type("_Server", (_Server,), {"address_family": family})
    return kind(address[:2], _Handler)  # type: ignore[no-any-return]


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of scrapes."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each of a few connections; one more takes the place of the oldest."""

    daemon_threads = True
    # Connections that may wait to be taken; by itself there are five.
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._lock = Lock()
        # In the order they came.
        self._open: dict[socket.socket, None] = {}
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= _MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                # Its thread reads the end, and goes.
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who left, or was made to, in the middle of a scrape."""
