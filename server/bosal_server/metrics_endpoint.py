"""Serves /metrics."""

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client

from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.metrics import Metrics


@contextmanager
def exported(metrics: Metrics, config: ServerConfig) -> Iterator[str | None]:
    """Serve from a thread of its own; yield the address, None if there is to be none."""
    if config.metrics_port < 0:
        yield None
        return
    host = config.metrics_host
    try:
        server, thread = prometheus_client.start_http_server(
            config.metrics_port, host, metrics.registry
        )
    except OSError as error:
        raise InvalidConfig(
            f"cannot serve metrics at {host}:{config.metrics_port}: {error.strerror}"
        ) from None
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
