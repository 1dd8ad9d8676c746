"""The gRPC server: our services, health and reflection on one port."""

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.file_limit import connections
from bosal_server.metrics import Metrics
from bosal_server.rpc.arrivals import Arrivals
from bosal_server.rpc.bouts import Bouts
from bosal_server.rpc.generation_service import doors
from bosal_server.rpc.health import HealthService
from bosal_server.rpc.interceptors import Boundary, TraceRefusal
from bosal_server.rpc.refusal_pace import RefusalPace
from bosal_server.rpc.services import SERVICES, add_services
from bosal_server.security.access import Access
from bosal_server.security.tls import TlsCredentials

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Our own limit answers with a described error; gRPC's, which ends the call, only guards memory.
_TRANSPORT_FACTOR = 16
# Of one call's headers; a key and a trace take a few hundred.
_MAX_METADATA_BYTES = 8192
# From a connection's first byte to the end of its greetings, TLS's too.
_HANDSHAKE_MS = 20_000
# Finds clients that vanished without closing their connection.
_PING_MS = 60_000
_PING_TIMEOUT_MS = 20_000
_SHORTEST_PING_MS = 30_000
# Of one key. Of a burst of 3,000 calls, messages and all, 18 were seen to wait at once.
_MAX_ARRIVALS = 256
# Time for the last statuses to leave after every call is done.
_FLUSH_SECONDS = 1.0


def transport_options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return what gRPC is told of the connections it takes."""
    idle_ms = round(config.max_connection_idle_seconds * 1000)
    return [
        ("grpc.max_receive_message_length", config.limits.max_request_bytes * _TRANSPORT_FACTOR),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # Two servers on one port would each get some of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", _PING_MS),
        # Which of the two counts depends on grpc's version; told the first alone, 1.76 waits a
        # minute for a ping's answer.
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # Clients look for a vanished server as often, also while a stream says nothing.
        ("grpc.http2.min_ping_interval_without_data_ms", _SHORTEST_PING_MS),
        ("grpc.max_allowed_incoming_connections", connections(config.max_connections)),
        ("grpc.max_connection_idle_ms", idle_ms),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ]


class RpcServer:
    """One listening port. Its methods belong to one event loop."""

    def __init__(
        self,
        core: GenerationCore,
        config: ServerConfig,
        metrics: Metrics,
        access: Access,
        tls: TlsCredentials | None,
        trace_refusal: TraceRefusal | None = None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._boundary = Boundary(
            metrics,
            max_request_bytes=config.limits.max_request_bytes,
            access=access,
            stall_seconds=config.write_stall_seconds,
            trace_refusal=trace_refusal,
            pace=RefusalPace(lambda: core.has_work, metrics.count_held),
            doors=doors(core),
            bouts=Bouts(lambda: core.is_crowded),
        )
        self._health = HealthService(SERVICES)
        arrivals = Arrivals(
            max_calls=_MAX_ARRIVALS, max_request_bytes=config.limits.max_request_bytes
        )
        self._server = grpc.aio.server(
            interceptors=[arrivals, self._boundary], options=transport_options(config)
        )
        self._experiments = add_services(core, config, self._server, access)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, _HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Begin to listen; return the address, with the port that was chosen if 0 was asked."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        wanted = f"{host}:{self._config.port}"
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(wanted)
            else:
                port = self._server.add_secure_port(wanted, self._tls.server_credentials())
        except RuntimeError:
            raise InvalidConfig(f"cannot listen at {wanted}") from None
        await self._server.start()
        return f"{host}:{port}"

    async def stop_serving(self) -> None:
        """Say NOT_SERVING to whoever asks or watches; calls are still taken."""
        await self._health.stop_serving()

    async def drain(self, seconds: float) -> bool:
        """Say NOT_SERVING, refuse new calls, let running ones end; False if time ran out."""
        await self.stop_serving()
        self._experiments.end_streams()
        try:
            await asyncio.wait_for(self._boundary.drain(), seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Close the port; calls that still run are cancelled."""
        await self._server.stop(_FLUSH_SECONDS)
