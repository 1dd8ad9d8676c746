"""Health of the server and its services.

The servicer of grpcio-health-checking forgets every other watcher of a service when one leaves,
so those would never learn that the server stops; hence this one.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Every service has the health of the whole server, which is named ""."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._is_serving = True
        self._changed = asyncio.Condition()

    async def stop_serving(self) -> None:
        """Tell everyone who asks or watches that no more calls are taken."""
        async with self._changed:
            self._is_serving = False
            self._changed.notify_all()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        while True:
            status = self._status(request.service)
            yield health_pb2.HealthCheckResponse(status=status)
            async with self._changed:
                while self._status(request.service) == status:
                    await self._changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(_UNKNOWN)
        return int(_SERVING if self._is_serving else _NOT_SERVING)
