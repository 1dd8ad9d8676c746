"""Errors the client raises.

BosalError
├── InvalidRequest       the request itself is wrong: change it before trying again
├── NotFound             a model, recipe or version the server does not have
├── Overloaded           the server's queue is full: try again after `retry_after`
├── Unavailable          the server cannot be reached or is shutting down
├── DeadlineExceeded     the call's timeout passed
├── Cancelled            the call was cancelled
├── Unauthenticated      the server wants a valid API key
├── PermissionDenied     the API key is not for this call
├── Unimplemented        this server cannot do what was asked
├── IncompleteAnswer     the answer cannot be read as what was asked for
└── InternalError        the server failed; `metadata["request_id"]` finds it in its log
"""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "BosalError",
    "Cancelled",
    "DeadlineExceeded",
    "IncompleteAnswer",
    "InternalError",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class BosalError(Exception):
    """Raised when a call fails; catch it to catch every error of this package."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        # The server's machine-readable reason, for example `UNKNOWN_RECIPE`; "" if it gave none.
        self.reason = reason
        # The path of the request field at fault, for example `spec.max_tokens`; "" if none is.
        self.field = field
        # Seconds after which trying again makes sense; None if the server did not say.
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class IncompleteAnswer(BosalError):
    """Raised when an answer was cut off, or is no instance of the class it was to be."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message, reason="INCOMPLETE_ANSWER")
        self.text = text


class InvalidRequest(BosalError):
    """Raised when the server refuses the request as it stands."""


class NotFound(BosalError):
    """Raised when a model, a recipe or a version of one is unknown to the server."""


class Overloaded(BosalError):
    """Raised when the server has no room for the request now."""


class Unavailable(BosalError):
    """Raised when the server cannot be reached or is shutting down."""


class DeadlineExceeded(BosalError):
    """Raised when the call's timeout passed before its end."""


class Cancelled(BosalError):
    """Raised when the call was cancelled before its end."""


class Unauthenticated(BosalError):
    """Raised when the server wants an API key and got none, a wrong one or an expired one."""


class PermissionDenied(BosalError):
    """Raised when the API key lacks the scope of what was asked."""


class Unimplemented(BosalError):
    """Raised when this server lacks what was asked of it."""


class InternalError(BosalError):
    """Raised when the server failed while it worked on the request."""


_BY_CODE: dict[grpc.StatusCode, type[BosalError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,
    # What was read before has changed since.
    grpc.StatusCode.ABORTED: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def client_closed() -> Unavailable:
    """Say of a call that its client was closed before."""
    return Unavailable("the client is closed", reason="CLIENT_CLOSED")


def from_rpc_error(error: grpc.RpcError) -> BosalError:
    """Turn a gRPC error, sync or aio, into this package's."""
    code = error.code() or grpc.StatusCode.UNKNOWN
    kind = _BY_CODE.get(code, InternalError)
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after = None
    for detail in _details(error):
        if detail.Unpack(info) or detail.Unpack(request):
            continue
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    if kind is Overloaded and not info.reason:
        # gRPC's own limits (message size, metadata size): the same request cannot succeed later.
        kind = InvalidRequest
    return kind(
        error.details() or code.name.lower().replace("_", " "),
        reason=info.reason,
        field=request.field_violations[0].field if request.field_violations else "",
        retry_after=retry_after,
        metadata=info.metadata,
    )


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    # Named tuples from grpc, pairs from grpc.aio.
    trailers: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # A proxy's, not this contract's.
                return []
    return []
