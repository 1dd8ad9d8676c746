"""Recipe documents on the wire: the mapping a YAML or JSON file holds, as protobuf and back."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import struct_pb2

from bosal.v1 import recipe_pb2
from bosal_client.constraints import constraint_document, constraint_message
from bosal_client.errors import InvalidRequest

__all__ = [
    "plain",
    "recipe_document",
    "recipe_message",
    "rule_document",
    "rule_message",
    "rule_messages",
]

_FIELDS = ("name", "description", "scaffold", "rules", "constraint")


def recipe_message(document: Mapping[str, Any], field: str) -> recipe_pb2.Recipe:
    """Write a recipe document as protobuf; `field` is where it goes in the request."""
    if not isinstance(document, Mapping):
        raise _invalid(field, f"must be a recipe's document, not {document!r:.60}")
    for name in document:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"a recipe has no field {name!r}; its fields are {', '.join(_FIELDS)}",
                reason="UNKNOWN_FIELD",
                field=f"{field}.{name}",
            )
    scaffold = document.get("scaffold")
    if scaffold and not isinstance(scaffold, Mapping):
        raise _not_a_mapping(f"{field}.scaffold", "kind", scaffold)
    message = recipe_pb2.Recipe(
        name=_text(document.get("name"), f"{field}.name"),
        description=_text(document.get("description"), f"{field}.description"),
        rules=rule_messages(document.get("rules") or (), f"{field}.rules"),
    )
    if scaffold:
        params = {name: value for name, value in scaffold.items() if name != "kind"}
        message.scaffold.kind = _text(scaffold.get("kind"), f"{field}.scaffold.kind")
        message.scaffold.params.CopyFrom(_struct(params, f"{field}.scaffold"))
    # A document may spell out that it has no constraint.
    if document.get("constraint") is not None:
        message.constraint.CopyFrom(
            constraint_message(document["constraint"], f"{field}.constraint")
        )
    return message


def rule_messages(rules: Iterable[Mapping[str, Any]], field: str) -> list[recipe_pb2.Rule]:
    """Write a list of rules as protobuf; `field` is where it goes in the request."""
    if isinstance(rules, str | Mapping) or not isinstance(rules, Iterable):
        raise _invalid(field, f"must be a list of rules, not {rules!r:.60}")
    return [rule_message(rule, f"{field}[{index}]") for index, rule in enumerate(rules)]


def rule_message(rule: Mapping[str, Any], field: str) -> recipe_pb2.Rule:
    """Write one `{rule: NAME, **params}` as protobuf."""
    if not isinstance(rule, Mapping):
        raise _not_a_mapping(field, "rule", rule)
    params = {name: value for name, value in rule.items() if name != "rule"}
    name = _text(rule.get("rule"), f"{field}.rule")
    return recipe_pb2.Rule(rule=name, params=_struct(params, field))


def recipe_document(message: recipe_pb2.Recipe) -> dict[str, Any]:
    """Read a recipe message as the document it stands for; unset fields are left out."""
    document: dict[str, Any] = {}
    if message.name:
        document["name"] = message.name
    if message.description:
        document["description"] = message.description
    if message.HasField("scaffold"):
        document["scaffold"] = {"kind": message.scaffold.kind, **plain(message.scaffold.params)}
    document["rules"] = [rule_document(rule) for rule in message.rules]
    if message.HasField("constraint"):
        document["constraint"] = constraint_document(message.constraint)
    return document


def rule_document(message: recipe_pb2.Rule) -> dict[str, Any]:
    """Read a rule message as `{rule: NAME, **params}`."""
    return {"rule": message.rule, **plain(message.params)}


def plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Read a Struct as a dict; whole numbers become int, as JSON would write them.

    Its fields come sorted: a Struct keeps no order, and iterates in another one in each process.
    """
    return {name: _value(value) for name, value in sorted(struct.fields.items())}


def _value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case _:
            return None


def _struct(params: Mapping[str, Any], field: str) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    try:
        struct.update(_string_keys(params))
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(field, str(error)) from error
    return struct


def _text(value: object, field: str) -> str:
    """Return a text, "" for none."""
    if value is not None and not isinstance(value, str):
        raise _invalid(field, f"must be text, not {value!r:.60}")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise _invalid(field, str(error)) from error
    return value or ""


def _not_a_mapping(field: str, key: str, value: object) -> InvalidRequest:
    return _invalid(field, f"must be a mapping with the key {key!r}, not {value!r:.60}")


def _invalid(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {why}", reason="INVALID_PARAMETER", field=field)


def _key(key: object) -> str:
    # YAML reads yes, no and dates without quotes as something else than text.
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise TypeError(f"the key {key!r:.60} is not text; YAML needs quotes around it")
    return str(key)


def _string_keys(value: Any) -> Any:
    """Write keys as JSON has them: text, or a token's id in digits."""
    if isinstance(value, Mapping):
        keys = [_key(key) for key in value]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r:.60} is given twice")
        return dict(zip(keys, map(_string_keys, value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [_string_keys(item) for item in value]
    return value
