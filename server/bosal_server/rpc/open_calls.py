"""Calls that need no key: strangers make them, so they are few and none waits for its message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

# Load balancers and probes watch for as long as they like, a stream each.
_MAX_CALLS: Final = 1000
# From a call's headers to its message, which come together.
_MESSAGE_SECONDS: Final = 20.0

Context = grpc.aio.ServicerContext[Any, Any]


class OpenCalls:
    """Bounds the calls of methods that are open to all; belongs to one event loop."""

    def __init__(
        self, max_calls: int = _MAX_CALLS, message_seconds: float = _MESSAGE_SECONDS
    ) -> None:
        self._max_calls = max_calls
        self._message_seconds = message_seconds
        self._num_calls = 0

    def bounded(self, handler: Any) -> Any:
        """Make of a method's handler one that refuses what is too many or never asks.

        gRPC would hold a call whose message does not come for as long as its connection.
        """

        async def answer(requests: AsyncIterator[bytes], context: Context) -> None:
            if self._num_calls >= self._max_calls:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls without a key at once"
                )
            self._num_calls += 1
            try:
                await self._answer(handler, requests, context)
            finally:
                self._num_calls -= 1

        return grpc.stream_stream_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )

    async def _answer(self, handler: Any, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            async with asyncio.timeout(self._message_seconds):
                request = handler.request_deserializer(await anext(requests))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's message never came")
        except Exception:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no proper message")
        if handler.response_streaming:
            async for message in handler.unary_stream(request, context):
                await context.write(message)
        else:
            await context.write(await handler.unary_unary(request, context))
