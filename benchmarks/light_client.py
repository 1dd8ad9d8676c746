"""A load generator that leaves the machine to the server it loads.

Calls share their request but for the instruction, and messages stay bytes until the last: on few
cores, what the clients of a real fleet do elsewhere would be measured as the server's.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from bosal.v1 import generation_pb2 as pb
from bosal_client.requests import GenerationOptions, generation_spec

METHOD = "/bosal.v1.GenerationService/GenerateStream"
# What a server that turns calls away says, and what a call says that came too late.
_REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Served:
    """An answer that ended, as the server timed it."""

    time_to_first_token: float
    # From the first token to the last.
    decode: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that was turned away, and in how many seconds the server would have another."""

    retry_after: float


class LightClient:
    """Streams answers to one kind of request."""

    def __init__(
        self, address: str, *, timeout: float, **options: Unpack[GenerationOptions]
    ) -> None:
        """`timeout` is each call's, in seconds."""
        self._request = pb.GenerateStreamRequest(spec=generation_spec("-", options))
        # As if another client called each time.
        self._request.spec.ClearField("request_id")
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(address)
        self._call: Any = self._channel.unary_stream(METHOD)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def ask(self, instruction: str) -> Served | Refused:
        """Read an answer to its end."""
        self._request.spec.instruction = instruction
        last = b""
        try:
            async for message in self._call(
                self._request.SerializeToString(), timeout=self._timeout
            ):
                last = message
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                return Refused(_pushback(error))
            raise
        event = pb.GenerateStreamResponse.FromString(last)
        if not event.HasField("finished"):
            raise RuntimeError("an answer has no end")
        timings = event.finished.timings
        return Served(_seconds(timings.time_to_first_token), _seconds(timings.decode))


def _seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _pushback(error: grpc.aio.AioRpcError) -> float:
    for key, value in error.trailing_metadata():
        if key == "grpc-retry-pushback-ms":
            return int(value) / 1000
    return 0.0
