"""The services without a socket: a channel whose calls are answered in this process.

Requests pass the same reader, boundary and handlers as those that come over gRPC.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import Message

from bosal_server.config import ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.metrics import Metrics
from bosal_server.rpc.generation_service import doors
from bosal_server.rpc.interceptors import Boundary, TraceRefusal
from bosal_server.rpc.services import add_services
from bosal_server.security.access import Access

_LATE: Final = "the deadline passed before the request was finished"
# Ends a stream's queue.
_END: Final = object()


class CallFailed(grpc.RpcError):
    """Raised when a call ends with a status; what `grpc` raises for one over a socket."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailers: Sequence[tuple[str, Any]] = ()
    ) -> None:
        super().__init__(details)
        self._code, self._details, self._trailers = code, details, tuple(trailers)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailers


class InProcessChannel(grpc.Channel):
    """Answers calls of any thread on the event loop that it was made on."""

    def __init__(
        self,
        core: GenerationCore,
        config: ServerConfig,
        metrics: Metrics,
        trace_refusal: TraceRefusal | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._boundary = Boundary(
            metrics,
            max_request_bytes=config.limits.max_request_bytes,
            trace_refusal=trace_refusal,
            doors=doors(core),
        )
        self._handlers = _Handlers()
        add_services(core, config, self._handlers, Access())
        self._running: set[Future[None]] = set()

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        def call(request: Message, timeout: float | None = None, **_: Any) -> Message:
            messages = list(self._call(method, request, timeout))
            return messages[0]

        return call

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        def call(request: Message, timeout: float | None = None, **_: Any) -> "_Answers":
            return self._call(method, request, timeout)

        return call

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> NoReturn:
        raise NotImplementedError("no service takes a stream")

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> NoReturn:
        raise NotImplementedError("no service takes a stream")

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Nothing to connect to, so its state never changes."""

    def unsubscribe(self, callback: Any) -> None:
        """See `subscribe`."""

    def close(self) -> None:
        """Cancel the calls that run."""
        for future in list(self._running):
            future.cancel()

    def __enter__(self) -> "InProcessChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, request: Message, timeout: float | None) -> "_Answers":
        answers: SimpleQueue[object] = SimpleQueue()
        work = self._answer(method, request.SerializeToString(), timeout, answers)
        future = self._submit(work)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        # Whatever ends the call, its reader learns of it.
        future.add_done_callback(lambda _: answers.put(_END))
        return _Answers(answers, future)

    def _submit(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the engine is closed") from None

    async def _answer(
        self, method: str, data: bytes, seconds: float | None, answers: SimpleQueue[object]
    ) -> None:
        details = _Details(method)
        handler: Any = await self._boundary.intercept_service(self._handlers.find, details)
        if handler is None:
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, f"no method is called {method}")
        context: Any = _Context(seconds, answers.put)
        request = handler.request_deserializer(data)
        try:
            async with asyncio.timeout(seconds):
                if handler.response_streaming:
                    await handler.unary_stream(request, context)
                else:
                    answers.put(await handler.unary_unary(request, context))
        except TimeoutError:
            raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, _LATE) from None


class _Handlers:
    """Stands where the generated code expects a server, and keeps what it is given."""

    def __init__(self) -> None:
        self._methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """The same handlers as those that are registered by their names."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        self._methods |= {f"/{service}/{name}": handler for name, handler in methods.items()}

    async def find(self, details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(details.method)


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class _Context:
    """What handlers ask of the call they answer."""

    def __init__(self, timeout: float | None, write: Callable[[object], None]) -> None:
        self._deadline = None if timeout is None else monotonic() + timeout
        self._write = write

    def invocation_metadata(self) -> tuple[Any, ...]:
        return ()

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - monotonic(), 0.0)

    def set_trailing_metadata(self, trailers: Sequence[tuple[str, Any]]) -> None:
        """For readers of headers; the messages say the same."""

    async def write(self, message: Message) -> None:
        self._write(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailers: Sequence[tuple[str, Any]] = ()
    ) -> NoReturn:
        raise CallFailed(code, details, trailers)


class _Answers:
    """A call's messages as they come; the end may be an error."""

    def __init__(self, answers: SimpleQueue[object], future: "Future[None]") -> None:
        self._answers = answers
        self._future = future

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            message = self._answers.get()
        except BaseException:  # Ctrl-C while nothing came.
            self._future.cancel()
            raise
        if message is not _END:
            assert isinstance(message, Message)
            return message
        # For whoever asks again.
        self._answers.put(_END)
        try:
            self._future.result()
        except CancelledError:
            raise CallFailed(grpc.StatusCode.CANCELLED, "the call was cancelled") from None
        raise StopIteration

    def cancel(self) -> None:
        self._future.cancel()
