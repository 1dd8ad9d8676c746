"""Reads messages into the dataclasses that mirror them, field by field."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["read"]

Value = TypeVar("Value")


def read(kind: Callable[..., Value], message: Message) -> Value:
    """Return a dataclass whose fields are the message's of the same names.

    Enumerations become their names without the prefix, in small letters; times are in UTC.
    """
    values = {name: _value(hint, message, name) for name, hint in _hints(kind).items()}
    return kind(**values)


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, message: Message, name: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if get_origin(hint) is tuple:
        (item, _) = get_args(hint)
        is_message = dataclasses.is_dataclass(item)
        return tuple(read(cast(Any, item), one) if is_message else one for one in value)
    if get_origin(hint) is Mapping:
        return dict(value)
    if get_origin(hint) in (Union, types.UnionType):
        if not message.HasField(name):
            return None
        hint = get_args(hint)[0]
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if dataclasses.is_dataclass(hint):
        return read(cast(Any, hint), value)
    if field.enum_type is not None:
        return _enum_name(field.enum_type, value)
    return value


def _enum_name(enum: Any, number: int) -> str:
    found = enum.values_by_number.get(number)
    if found is None:  # A newer server's.
        return f"value_{number}"
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(found.name.removeprefix(prefix).lower())
