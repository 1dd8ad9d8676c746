"""Domain errors become statuses with machine-readable details."""

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from bosal_decoding.errors import InvalidRecipe, Violation
from bosal_server.errors import InternalFault, QueueFull, ServerError
from bosal_server.request_errors import OutOfRange, located
from bosal_server.rpc.status import Describer, DomainError, describe


def details(error: DomainError) -> dict[type[Message], Message]:
    _, _, trailers = describe(error, "r-1")
    status = status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
    found: dict[type[Message], Message] = {}
    for packed in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        ):
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    return found


def test_an_error_keeps_its_code_text_reason_and_field() -> None:
    error = OutOfRange("num_choices", 99, low=1, high=16)
    code, text, _ = describe(error, "r-1")
    found = details(error)
    info = found[error_details_pb2.ErrorInfo]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    request = found[error_details_pb2.BadRequest]
    assert isinstance(request, error_details_pb2.BadRequest)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "num_choices is 99; it must be from 1 to 16"
    assert (info.reason, info.domain) == ("OUT_OF_RANGE", "bosal")
    assert dict(info.metadata) == {"value": "99", "low": "1", "high": "16"}
    assert [violation.field for violation in request.field_violations] == ["num_choices"]


def test_every_violation_is_named_from_the_outermost_message() -> None:
    error = InvalidRecipe(
        [
            Violation(field="rules[0].p", message="too large"),
            Violation(field="rules[1].k", message="too small"),
        ]
    )
    try:
        with located("spec"), located("inline_recipe"):
            raise error
    except InvalidRecipe as raised:
        request = details(raised)[error_details_pb2.BadRequest]
    assert isinstance(request, error_details_pb2.BadRequest)
    assert [violation.field for violation in request.field_violations] == [
        "spec.inline_recipe.rules[0].p",
        "spec.inline_recipe.rules[1].k",
    ]


def test_a_full_queue_says_when_to_try_again() -> None:
    error = QueueFull(waiting="3 requests", limit="3 requests", retry_after=1.5)
    _, _, trailers = describe(error, "r-1")
    retry = details(error)[error_details_pb2.RetryInfo]
    assert isinstance(retry, error_details_pb2.RetryInfo)

    assert retry.retry_delay.ToMilliseconds() == 1500
    assert dict(trailers)["grpc-retry-pushback-ms"] == "1500"


def test_who_is_told_the_same_is_told_it_without_describing_it_again() -> None:
    describer = Describer()

    def full(seconds: float) -> QueueFull:
        return QueueFull(waiting="3 requests", limit="3 requests", retry_after=seconds)

    first = describer(full(1.5), "r-1")
    assert first == describe(full(1.5), "r-1")
    assert describer(full(1.5), "r-2") is first
    other = describer(full(1.6), "r-3")
    assert dict(other[2])["grpc-retry-pushback-ms"] == "1600"
    assert describer(full(1.5), "r-4") == first
    # The id of a fault is its call's own.
    assert describer(InternalFault(), "r-5") != describer(InternalFault(), "r-6")


def test_an_internal_error_carries_the_request_id_for_the_log() -> None:
    info = details(InternalFault())[error_details_pb2.ErrorInfo]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.metadata["request_id"] == "r-1"


def test_trailers_stay_small_whatever_the_error_quotes() -> None:
    huge = "\N{GRINNING FACE}" * 100_000
    error = ServerError(huge, field=huge, metadata={"quote": huge})
    _, text, trailers = describe(error, huge)

    # Percent-encoding triples the text, base64 adds a third to the details.
    size = 3 * len(text.encode()) + sum(len(value) * 4 // 3 for _, value in trailers)
    assert size < 8 * 1024
