"""Waits for the messages of calls: they come with their headers, from whoever means to ask."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from bosal_server.request_errors import MessageLate, MessageMissing, TooManyUnsent
from bosal_server.security.caller import current_caller

# A slow line's message of so many bytes has a second more.
_SECONDS: Final = 20.0
_BYTES_PER_SECOND: Final = 64 * 1024

Context = grpc.aio.ServicerContext[Any, Any]


class Arrivals(grpc.aio.ServerInterceptor):
    """Bounds how long calls, and how many of one key, wait for their message.

    gRPC would wait for as long as the connection is there, and call the handler only then. This
    stands outside of the boundary, which answers a message that is an error with that error.
    """

    def __init__(
        self, *, max_calls: int, max_request_bytes: int, seconds: float = _SECONDS
    ) -> None:
        """`max_calls` of one key may wait at once."""
        self._max_calls = max_calls
        self._seconds = seconds + max_request_bytes / _BYTES_PER_SECOND
        self._num_waiting: Counter[str] = Counter()
        # By method: the handler of the boundary, and what was made of it.
        self._known: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler  # type: ignore[no-any-return]
        method = handler_call_details.method
        known = self._known.get(method)
        if known is None or known[0] is not handler:
            known = self._known[method] = (handler, self._waiting(handler))
        return known[1]  # type: ignore[no-any-return]

    def _waiting(self, handler: Any) -> Any:
        """Make of a handler one that is called before its message is there."""
        reader, writer = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:

            async def stream(requests: object, context: Context) -> None:
                await handler.unary_stream(await self._message(context), context)

            return grpc.stream_stream_rpc_method_handler(stream, reader, writer)

        async def unary(requests: object, context: Context) -> Any:
            return await handler.unary_unary(await self._message(context), context)

        return grpc.stream_unary_rpc_method_handler(unary, reader, writer)

    async def _message(self, context: Context) -> Any:
        """Return a call's message, or the error that stands for it."""
        key = current_caller.get().key_id
        if self._num_waiting[key] >= self._max_calls:
            return TooManyUnsent(self._max_calls)
        self._num_waiting[key] += 1
        try:
            async with asyncio.timeout(self._seconds):
                message = await context.read()
        except TimeoutError:
            return MessageLate(self._seconds)
        finally:
            self._num_waiting[key] -= 1
            if not self._num_waiting[key]:
                del self._num_waiting[key]
        return MessageMissing() if message is grpc.aio.EOF else message
