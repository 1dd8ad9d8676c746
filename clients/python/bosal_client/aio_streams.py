"""Generations and comparisons under way, without blocking."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc

from bosal_client import comparisons, responses, results
from bosal_client.errors import Cancelled, InternalError, from_rpc_error

__all__ = ["AsyncComparisonStream", "AsyncStream", "is_task_cancelled"]


def is_task_cancelled() -> bool:
    """Tell a cancelled task from a call that was cancelled under it, by `cancel()` or `close()`.

    gRPC raises CancelledError for either.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AsyncStream:
    """A generation under way: iterate over its token batches, or await `result()`.

    In `async with`, leaving early cancels it.
    """

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._transcript = responses.Transcript()
        self._is_cancelled = False
        self.request_id = request_id

    async def started(self) -> results.Started:
        """What the server made of the request; waits for it if need be."""
        while self._transcript.started is None:
            await self._receive()
        return self._transcript.started

    async def __aiter__(self) -> AsyncIterator[results.TokenBatch]:
        while self._transcript.finished is None:
            item = await self._receive()
            if isinstance(item, results.TokenBatch):
                yield item

    async def result(self) -> results.Generation:
        """Wait for the end and return everything, what was iterated over included."""
        while self._transcript.finished is None:
            await self._receive()
        return self._transcript.result()

    def cancel(self) -> None:
        """Stop generating; further reads raise Cancelled."""
        self._is_cancelled = self._transcript.finished is None
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def _receive(self) -> results.Started | results.TokenBatch | results.Finished | None:
        if self._is_cancelled:
            raise Cancelled("the call was cancelled")
        try:
            message = await self._call.read()
            item = None if message is grpc.aio.EOF else responses.event(message)
            if isinstance(item, results.Finished):
                # The status follows at once; reading it ends the call on both sides.
                await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.CancelledError:
            self.cancel()
            if is_task_cancelled():
                raise
            raise Cancelled("the call was cancelled") from None
        if message is grpc.aio.EOF:
            raise InternalError("the server ended the stream early")
        if item is not None:
            self._transcript.add(item)
        return item


class AsyncComparisonStream:
    """A comparison under way: iterate over tokens and divergences, or await `result()`.

    In `async with`, leaving early cancels it.
    """

    def __init__(self, call: Any, num_recipes: int) -> None:
        self._call = call
        self._transcript = comparisons.Transcript(num_recipes)
        self._is_cancelled = False

    async def __aiter__(
        self,
    ) -> AsyncIterator[comparisons.RecipeTokens | comparisons.Divergence]:
        if self._is_cancelled:
            raise Cancelled("the call was cancelled")
        try:
            async for message in self._call:
                item = self._transcript.add(message)
                if item is not None:
                    yield item
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.CancelledError:
            self.cancel()
            if is_task_cancelled():
                raise
            raise Cancelled("the call was cancelled") from None
        if not self._transcript.is_over:
            raise InternalError("the server ended the comparison early")

    async def result(self) -> comparisons.Comparison:
        """Wait for the end and return everything, what was iterated over included."""
        async for _ in self:
            pass
        return self._transcript.result()

    def cancel(self) -> None:
        """Stop generating; further reads raise Cancelled."""
        self._is_cancelled = not self._transcript.is_over
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
