"""Reading requests: bytes that are no message become an answer instead of a dead call."""

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bosal_server.request_errors import InvalidRequest, MalformedMessage, MessageTooLarge

_LENGTH_DELIMITED = 2
# Protobuf itself reads no deeper; our search in what it refused must not either.
_MAX_DEPTH = 100
# A megabyte holds half a million fields, and each takes microseconds of the event loop's time.
_MAX_LOOKS = 4096


def reader(
    message_type: type[Message], max_bytes: int
) -> Callable[[bytes], Message | InvalidRequest]:
    """Make a deserializer that returns an error where gRPC would have ended the call."""

    def read(data: bytes) -> Message | InvalidRequest:
        if len(data) > max_bytes:
            return MessageTooLarge(len(data), max_bytes)
        try:
            return message_type.FromString(data)
        except DecodeError:
            descriptor = message_type.DESCRIPTOR
            field = next(_invalid_text(descriptor, data, iter(range(_MAX_LOOKS))), None)
            return MalformedMessage(descriptor.full_name, field)

    return read


def _invalid_text(
    descriptor: Any, data: bytes, looks: Iterator[int], depth: int = 0
) -> Iterator[str]:
    """Yield the paths of string fields whose bytes are not UTF-8, among those looked at."""
    if depth == _MAX_DEPTH:
        return
    try:
        # Every field is unknown to Empty, so the raw bytes of each can be looked at.
        fields: Any = UnknownFieldSet(empty_pb2.Empty.FromString(data))
    except DecodeError:
        return
    counts: dict[int, int] = {}
    for raw, _ in zip(fields, looks, strict=False):
        field = descriptor.fields_by_number.get(raw.field_number)
        if field is None or raw.wire_type != _LENGTH_DELIMITED:
            continue
        path = field.name
        if field.is_repeated:
            index = counts.get(raw.field_number, 0)
            counts[raw.field_number] = index + 1
            path = f"{path}[{index}]"
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                raw.data.decode("utf-8")
            except UnicodeDecodeError:
                yield path
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in _invalid_text(field.message_type, raw.data, looks, depth + 1):
                yield f"{path}.{inner}"
