"""Requests that are no message become errors that name what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal.v1 import generation_pb2 as pb
from bosal_server.request_errors import MalformedMessage, MessageTooLarge
from bosal_server.rpc.reader import reader

READ = reader(pb.GenerateRequest, 4096)
# Stands where the broken text will be; the lengths around it stay right.
MARK = "@@@@"
BROKEN = b"\xff\xfe\xfd\xfc"


def test_a_well_formed_request_is_read() -> None:
    request = pb.GenerateRequest(spec=pb.GenerationSpec(instruction="Hello", seed=3))
    assert READ(request.SerializeToString()) == request


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.GenerationSpec(instruction=MARK), "spec.instruction"),
        (pb.GenerationSpec(model="ok", request_id=MARK), "spec.request_id"),
        (
            pb.GenerationSpec(
                conversation=pb.Conversation(
                    messages=[pb.Message(text="fine"), pb.Message(text=MARK)]
                )
            ),
            "spec.conversation.messages[1].text",
        ),
    ],
)
def test_text_that_is_not_utf8_is_named(spec: pb.GenerationSpec, field: str) -> None:
    data = pb.GenerateRequest(spec=spec).SerializeToString().replace(MARK.encode(), BROKEN)
    error = READ(data)
    assert isinstance(error, MalformedMessage)
    assert error.field == field


def test_a_request_over_the_limit_is_not_parsed() -> None:
    error = READ(b"\xff" * 5000)
    assert isinstance(error, MessageTooLarge)
    assert error.metadata == {"size": "5000", "limit": "4096"}


def test_few_fields_are_looked_at_for_what_is_wrong() -> None:
    """The event loop does it: half a million messages before the broken text took it seconds."""
    data = _field(1, b"") * 500_000 + _field(1, _field(2, BROKEN))
    error = reader(pb.Conversation, 1 << 21)(data)
    assert isinstance(error, MalformedMessage)
    assert error.field is None
    few = _field(1, b"") * 100 + _field(1, _field(2, BROKEN))
    error = reader(pb.Conversation, 1 << 21)(few)
    assert isinstance(error, MalformedMessage)
    assert error.field == "messages[100].text"


@pytest.mark.parametrize("depth", [90, 600, 5000])
def test_a_bottomless_message_is_an_error(depth: int) -> None:
    read = reader(pb.GenerateRequest, 1 << 20)
    data = b""
    for _ in range(depth):  # A Value that is a list of a Value that is …
        data = _field(6, _field(1, data))
    params = _field(1, _field(1, b"key") + _field(2, data))
    error = read(_field(1, _field(4, _field(2, params))))
    assert isinstance(error, MalformedMessage)
    assert error.field is None


def _field(number: int, content: bytes) -> bytes:
    """Write one length-delimited field."""
    size = len(content)
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_an_error(data: bytes) -> None:
    assert isinstance(READ(data), pb.GenerateRequest | MalformedMessage)
