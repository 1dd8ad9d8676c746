"""Domain errors as the wire's: a canonical status with google.rpc details."""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from bosal_decoding.errors import DecodingError
from bosal_server.errors import ServerError

DOMAIN = "bosal"
# A call's trailers together may not exceed 8 KiB by default, and texts may quote the request.
_MAX_TEXT_BYTES = 600
_MAX_DETAIL_BYTES = 200
_MAX_VIOLATIONS = 5

DomainError = DecodingError | ServerError
Trailers = tuple[tuple[str, str | bytes], ...]
Described = tuple[grpc.StatusCode, str, Trailers]


class Describer:
    """Describes errors; one like the last of its reason is not described again.

    Whoever turns away hundreds of calls a second tells most of them the same.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[object, Described]] = {}

    def __call__(self, error: DomainError, request_id: str) -> Described:
        """Return what `describe` does."""
        if error.code != "RESOURCE_EXHAUSTED":
            return describe(error, request_id)
        key = (type(error), str(error), error.field, error.metadata, _retry_after(error))
        known = self._last.get(error.reason)
        if known is not None and known[0] == key:
            return known[1]
        described = describe(error, request_id)
        self._last[error.reason] = (key, described)
        return described


def describe(error: DomainError, request_id: str) -> Described:
    """Return the status code, its text and the trailers that carry the details."""
    code = grpc.StatusCode[error.code]
    text = _cut(str(error), _MAX_TEXT_BYTES)
    metadata = {key: _cut(value, _MAX_DETAIL_BYTES) for key, value in error.metadata.items()}
    if code is grpc.StatusCode.INTERNAL:
        metadata["request_id"] = _cut(request_id, _MAX_DETAIL_BYTES)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    violations = list(_violations(error, text))
    if violations:
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    retry_after = _retry_after(error)
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(retry)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=text)
    for detail in details:
        status.details.add().Pack(detail)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if retry_after is not None:
        trailers.append(("grpc-retry-pushback-ms", str(int(retry_after * 1000))))
    return code, text, tuple(trailers)


def _retry_after(error: DomainError) -> float | None:
    return getattr(error, "retry_after", None)


def _violations(
    error: DomainError, text: str
) -> Iterable[error_details_pb2.BadRequest.FieldViolation]:
    """Yield what is wrong, field by field; an error may know of several."""
    many: Sequence[Any] = getattr(error, "violations", ())
    if error.field is None:
        return
    if len(many) < 2:
        yield error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field, _MAX_DETAIL_BYTES), description=text, reason=error.reason
        )
        return
    # The error's own field is the first violation's, seen from the request.
    prefix = error.field.removesuffix(many[0].field)
    for one in many[:_MAX_VIOLATIONS]:
        yield error_details_pb2.BadRequest.FieldViolation(
            field=_cut(prefix + one.field, _MAX_DETAIL_BYTES),
            description=_cut(one.message, _MAX_DETAIL_BYTES),
            reason=error.reason,
        )


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[:limit].decode(errors="ignore") + "…"
