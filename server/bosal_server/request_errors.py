"""Errors of a request that the service finds before any work.

ServerError
├── InvalidRequest          the request cannot be honoured as it stands
│   ├── MissingField
│   ├── OutOfRange
│   ├── InvalidRequestId
│   ├── ResponseTooLarge
│   ├── PromptTooLarge
│   ├── MalformedMessage
│   ├── MessageTooLarge
│   └── MessageMissing
├── MessageLate
├── TooManyUnsent
├── ReaderStalled
└── ShuttingDown
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bosal_decoding.errors import DecodingError
from bosal_server.errors import ServerError


class InvalidRequest(ServerError):
    """Raised when a request cannot be honoured as it stands."""

    reason = "INVALID_REQUEST"
    code = "INVALID_ARGUMENT"


class MissingField(InvalidRequest):
    """Raised when a field that must be set is not, or is empty."""

    reason = "MISSING_FIELD"

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field}: {what}", field=field)


class OutOfRange(InvalidRequest):
    """Raised when a number lies outside what this server accepts."""

    reason = "OUT_OF_RANGE"

    def __init__(self, field: str, value: int, *, low: int, high: int) -> None:
        super().__init__(
            f"{field} is {value}; it must be from {low} to {high}",
            field=field,
            metadata={"value": str(value), "low": str(low), "high": str(high)},
        )


class InvalidRequestId(InvalidRequest):
    """Raised when a request id is too long or holds other than printable characters."""

    reason = "INVALID_REQUEST_ID"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"request_id must be at most {limit} printable characters", field="request_id"
        )


class ResponseTooLarge(InvalidRequest):
    """Raised when what is asked about each token could fill more memory than a request may."""

    reason = "RESPONSE_TOO_LARGE"

    def __init__(self, numbers: int, limit: int, *, field: str) -> None:
        super().__init__(
            f"choices, tokens and what is asked about each ask for up to {numbers} numbers; "
            f"at most {limit} are kept for one request",
            field=field,
            metadata={"numbers": str(numbers), "limit": str(limit)},
        )


class PromptTooLarge(InvalidRequest):
    """Raised when an instruction or conversation is longer than may be tokenised."""

    reason = "PROMPT_TOO_LARGE"

    def __init__(self, field: str, size: int, limit: int) -> None:
        super().__init__(
            f"{field} has {size} bytes; this server tokenises at most {limit}",
            field=field,
            metadata={"size": str(size), "limit": str(limit)},
        )


class MalformedMessage(InvalidRequest):
    """Raised when a request's bytes are not the message they should be."""

    reason = "MALFORMED_MESSAGE"

    def __init__(self, message_type: str, field: str | None) -> None:
        if field is None:
            super().__init__(f"the request is not a well-formed {message_type}")
        else:
            super().__init__(f"{field} is not valid UTF-8", field=field)


class MessageTooLarge(InvalidRequest):
    """Raised when a request is larger than this server reads."""

    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the request has {size} bytes; this server reads at most {limit}",
            metadata={"size": str(size), "limit": str(limit)},
        )


class MessageMissing(InvalidRequest):
    """Raised when a call ends its side without having asked anything."""

    reason = "MESSAGE_MISSING"

    def __init__(self) -> None:
        super().__init__("the call has no message")


class MessageLate(ServerError):
    """Raised when a call's message does not come."""

    reason = "MESSAGE_LATE"
    code = "DEADLINE_EXCEEDED"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the call's message did not come within {seconds:g} s")


class TooManyUnsent(ServerError):
    """Raised when a key has as many calls open without a message as it may."""

    reason = "TOO_MANY_UNSENT"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} calls of this key are open and have not sent their message",
            metadata={"limit": str(limit)},
        )
        self.retry_after = 1.0


class ShuttingDown(ServerError):
    """Raised when a call arrives while the server finishes what it has begun."""

    reason = "SHUTTING_DOWN"
    code = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the server is shutting down")
        self.retry_after = 1.0


@contextmanager
def located(prefix: str) -> Iterator[None]:
    """Say where in the outer message the field of an error lies; "" is the whole inner one."""
    try:
        yield
    except (DecodingError, ServerError) as error:
        if error.field is not None:
            error.field = f"{prefix}.{error.field}" if error.field else prefix
        raise


@contextmanager
def named(field: str) -> Iterator[None]:
    """Name the request's field for errors that know of none."""
    try:
        yield
    except DecodingError as error:
        if error.field is None:
            error.field = field
        raise


class ReaderStalled(ServerError):
    """Raised when a stream's reader takes nothing for so long that its request is ended."""

    reason = "READER_STALLED"
    code = "ABORTED"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the reader took nothing for {seconds:g} s")
