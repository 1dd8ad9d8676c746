"""The outermost layer of every call: errors become statuses, calls are counted and drained."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message

from bosal_decoding.errors import DecodingError
from bosal_server.call import Call, current_call
from bosal_server.errors import InternalFault, ServerError
from bosal_server.metrics import Metrics
from bosal_server.request_errors import ReaderStalled, ShuttingDown
from bosal_server.rpc.bouts import Bouts
from bosal_server.rpc.open_calls import OpenCalls
from bosal_server.rpc.reader import reader
from bosal_server.rpc.reflections import Reflections
from bosal_server.rpc.refusal_log import RefusalLog
from bosal_server.rpc.refusal_pace import RefusalPace
from bosal_server.rpc.stalls import StallWatch
from bosal_server.rpc.status import Describer
from bosal_server.security.access import OPEN, REFLECTION, Access
from bosal_server.security.caller import current_caller
from bosal_server.trace_context import current_trace, trace_headers

log = logging.getLogger(__name__)

_OURS = "/bosal.v1."
# Of an id that a client sent; longer ones are refused by the service itself.
_MAX_LOGGED_ID = 200

# Told of a method, its call and why it failed before its request ran.
TraceRefusal = Callable[[str, Call, BaseException], None]
# Looks at a request, and at the seconds its call has left, before anything else is made of it.
Door = Callable[[Any, float | None], None]


class Boundary(grpc.aio.ServerInterceptor):
    """Answers every call of our services with a result or a described status.

    A call that may not be made ends before its message is read, whatever its service. Health
    checks and reflection are bounded in number.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_request_bytes: int,
        access: Access | None = None,
        stall_seconds: float | None = None,
        trace_refusal: TraceRefusal | None = None,
        pace: RefusalPace | None = None,
        doors: Mapping[str, Door] | None = None,
        bouts: Bouts | None = None,
    ) -> None:
        """A stream whose reader takes nothing for `stall_seconds` is ended.

        `pace` holds back the refusals of whoever has had many. `doors`, by method, raise what
        turns a request away: under overload most calls come no further. `bouts` hears of calls
        and of those that were turned away.
        """
        self._pace = pace
        self._bouts = bouts
        self._doors = doors or {}
        # By method; whoever turns calls away makes none for each.
        self._handlers: dict[str, Any] = {}
        self._metrics = metrics
        self._stall_seconds = stall_seconds
        self._trace_refusal = trace_refusal
        self._refusals = RefusalLog()
        self._describe = Describer()
        self._access = access or Access()
        self._open = OpenCalls()
        self._reflections = Reflections(stall_seconds=stall_seconds)
        self._max_request_bytes = max_request_bytes
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False

    async def drain(self) -> None:
        """Refuse new calls and wait for the running ones."""
        self._is_draining = True
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        handler = self._handlers.get(method)
        if handler is None:
            # Its type is that of the blocking server's handlers.
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
        try:
            caller = self._access.caller(method, metadata)
        except ServerError as error:
            self._metrics.count_refused_call(error.reason)
            current_trace.set(trace_headers(metadata))
            refusal = self._refusal(method.rpartition("/")[2], error)
            return refusal  # type: ignore[no-any-return]
        if method in OPEN:
            return self._open.bounded(handler)  # type: ignore[no-any-return]
        # The handler runs in this context.
        current_caller.set(caller)
        if method == REFLECTION:
            return self._reflections.bounded(handler)  # type: ignore[no-any-return]
        if not method.startswith(_OURS):
            return handler
        current_trace.set(trace_headers(metadata))
        if method not in self._handlers:
            handler = self._handlers[method] = self._guarded(method, handler)
        return handler

    def _guarded(self, method: str, handler: Any) -> Any:
        """Put a method's handler behind the boundary."""
        name, door = method.rpartition("/")[2], self._doors.get(method)
        # A generated handler's deserializer is the message type's bound FromString.
        message_type: type[Message] = handler.request_deserializer.__self__
        read = reader(message_type, self._max_request_bytes)
        if handler.response_streaming:
            stream = self._stream(name, handler.unary_stream, door)
            return grpc.unary_stream_rpc_method_handler(stream, read, handler.response_serializer)
        unary = self._unary(name, handler.unary_unary, door)
        return grpc.unary_unary_rpc_method_handler(unary, read, handler.response_serializer)

    def _refusal(self, method: str, error: ServerError) -> Any:
        """Make a handler that answers without waiting for the request."""

        async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            call = _begin(None)
            self._tell(error, method, call)
            code, text, trailers = self._describe(error, "")
            await context.abort(code, text, trailers)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _unary(
        self, method: str, behavior: Callable[..., Awaitable[Message]], door: Door | None
    ) -> Any:
        async def answer(
            request: Message | ServerError, context: grpc.aio.ServicerContext[Any, Any]
        ) -> Message:
            self._enter()
            call = _begin(request)
            try:
                accepted = self._accepted(request, door, context)
                return await behavior(accepted, context)
            except (Exception, asyncio.CancelledError) as error:
                await self._end(error, method, call, context)
            finally:
                self._leave()

        return answer

    def _stream(
        self,
        method: str,
        behavior: Callable[..., AsyncGenerator[Message, None]],
        door: Door | None,
    ) -> Any:
        async def answer(
            request: Message | ServerError, context: grpc.aio.ServicerContext[Any, Any]
        ) -> None:
            self._enter()
            call = _begin(request)
            try:
                accepted = self._accepted(request, door, context)
                # Closed here and now, so that a cancelled call stops its generation at once.
                with StallWatch(self._stall_seconds) as watch:
                    async with aclosing(behavior(accepted, context)) as messages:
                        async for message in messages:
                            await watch.write(context.write(message))
            except (Exception, asyncio.CancelledError) as error:
                await self._end(error, method, call, context)
            finally:
                self._leave()

        return answer

    def _accepted(
        self,
        request: Message | ServerError,
        door: Door | None,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> Message:
        """Let a request in, or raise why not."""
        if self._is_draining:
            raise ShuttingDown
        if isinstance(request, ServerError):
            raise request
        if door is not None:
            door(request, context.time_remaining())
        return request

    async def _end(
        self,
        error: BaseException,
        method: str,
        call: Call,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> NoReturn:
        if isinstance(error, asyncio.CancelledError):
            remaining = context.time_remaining()
            is_late = remaining is not None and remaining <= 0
            self._metrics.count_error(method, "DEADLINE_EXCEEDED" if is_late else "CANCELLED")
            raise error
        if not isinstance(error, DecodingError | ServerError):
            log.error("request %r: %s failed", call.request_id, method, exc_info=error)
            error = InternalFault()
        if isinstance(error, ReaderStalled):
            self._metrics.count_stalled()
        if error.code == "RESOURCE_EXHAUSTED":
            self._metrics.count_refusal(error.reason)
            if self._bouts is not None:
                self._bouts.note_refusal()
        self._tell(error, method, call)
        if self._pace is not None and self._pace.holds(error) and not self._is_draining:
            await self._pace.hold(current_caller.get().key_id, context.time_remaining())
        request_id = call.request_id if error.code == "INTERNAL" else ""
        code, text, trailers = self._describe(error, request_id)
        await context.abort(code, text, trailers)

    def _tell(self, error: DecodingError | ServerError, method: str, call: Call) -> None:
        """Count, log and trace a call that ends with an error."""
        self._metrics.count_error(method, error.code)
        self._refusals.note(call, method, error)
        if self._trace_refusal is not None and not call.has_run:
            self._trace_refusal(method, call, error)

    def _enter(self) -> None:
        if self._bouts is not None:
            self._bouts.note_call()
        self._num_running += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._num_running -= 1
        if not self._num_running:
            self._idle.set()


def _begin(request: Message | ServerError | None) -> Call:
    """Make what whoever works at a call finds in its context."""
    given = getattr(getattr(request, "spec", None), "request_id", "")
    call = Call(given[:_MAX_LOGGED_ID])
    current_call.set(call)
    return call
