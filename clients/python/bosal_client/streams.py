"""Generations and comparisons under way, as the blocking client reads them."""

from collections.abc import Iterator
from typing import Any, Self

import grpc

from bosal_client import comparisons, responses, results
from bosal_client.errors import Cancelled, InternalError, from_rpc_error

__all__ = ["ComparisonStream", "Stream"]


class Stream:
    """A generation under way: iterate over its token batches, or ask for `result()`.

    In `with`, leaving early cancels it.
    """

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._transcript = responses.Transcript()
        self._is_cancelled = False
        self.request_id = request_id

    @property
    def started(self) -> results.Started:
        """What the server made of the request; waits for it if need be."""
        while self._transcript.started is None:
            self._receive()
        return self._transcript.started

    def __iter__(self) -> Iterator[results.TokenBatch]:
        while self._transcript.finished is None:
            item = self._receive()
            if isinstance(item, results.TokenBatch):
                yield item

    def result(self) -> results.Generation:
        """Wait for the end and return everything, what was iterated over included."""
        while self._transcript.finished is None:
            self._receive()
        return self._transcript.result()

    def cancel(self) -> None:
        """Stop generating; further reads raise Cancelled."""
        self._is_cancelled = self._transcript.finished is None
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _receive(self) -> results.Started | results.TokenBatch | results.Finished | None:
        if self._is_cancelled:
            raise Cancelled("the call was cancelled")
        try:
            item = responses.event(next(self._call))
            if isinstance(item, results.Finished):
                # The status follows at once; reading it ends the call on both sides.
                for _ in self._call:
                    pass
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except StopIteration:
            raise InternalError("the server ended the stream early") from None
        if item is not None:
            self._transcript.add(item)
        return item


class ComparisonStream:
    """A comparison under way: iterate over tokens and divergences, or ask for `result()`.

    In `with`, leaving early cancels it.
    """

    def __init__(self, call: Any, num_recipes: int) -> None:
        self._call = call
        self._transcript = comparisons.Transcript(num_recipes)

    def __iter__(self) -> Iterator[comparisons.RecipeTokens | comparisons.Divergence]:
        try:
            for message in self._call:
                item = self._transcript.add(message)
                if item is not None:
                    yield item
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        if not self._transcript.is_over:
            raise InternalError("the server ended the comparison early")

    def result(self) -> comparisons.Comparison:
        """Wait for the end and return everything, what was iterated over included."""
        for _ in self:
            pass
        return self._transcript.result()

    def cancel(self) -> None:
        """Stop generating; further reads raise Cancelled."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
