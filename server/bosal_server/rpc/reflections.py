"""Reflection: streams that any key may open, so each has few and none is silent for long."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from bosal_server.request_errors import ReaderStalled
from bosal_server.rpc.stalls import StallWatch
from bosal_server.security.caller import current_caller

# Of one key, or of all where no keys are asked for. A tool asks a few questions and leaves.
_MAX_CALLS: Final = 64
# Before each question.
_SILENT_SECONDS: Final = 20.0

Context = grpc.aio.ServicerContext[Any, Any]


class Reflections:
    """Bounds the streams of reflection; belongs to one event loop."""

    def __init__(
        self,
        max_calls: int = _MAX_CALLS,
        silent_seconds: float = _SILENT_SECONDS,
        stall_seconds: float | None = None,
    ) -> None:
        """One key has `max_calls`; a reader that takes nothing for `stall_seconds` is ended."""
        self._max_calls = max_calls
        self._silent_seconds = silent_seconds
        self._stall_seconds = stall_seconds
        self._num_calls: Counter[str] = Counter()

    def bounded(self, handler: Any) -> Any:
        """Make of the method's handler one that refuses streams that are too many."""

        async def answer(requests: AsyncIterator[Any], context: Context) -> None:
            key = current_caller.get().key_id
            if self._num_calls[key] >= self._max_calls:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams at once"
                )
            self._num_calls[key] += 1
            try:
                await self._answer(handler, requests, context)
            finally:
                self._num_calls[key] -= 1
                if not self._num_calls[key]:
                    del self._num_calls[key]

        return grpc.stream_stream_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    async def _answer(self, handler: Any, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            with StallWatch(self._stall_seconds) as watch:
                async for message in handler.stream_stream(self._questions(requests), context):
                    await watch.write(context.write(message))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the next question never came")
        except ReaderStalled as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))

    async def _questions(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield what is asked; raise TimeoutError where it takes too long to come."""
        while True:
            try:
                async with asyncio.timeout(self._silent_seconds):
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            yield request
