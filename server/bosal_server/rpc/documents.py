"""Recipe documents on the wire: protobuf as the plain data a recipe is parsed from, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from bosal.v1 import recipe_pb2
from bosal_decoding.limits import MAX_DOCUMENT_BYTES, MAX_RULES
from bosal_server.recipe_entry import RecipeEntry, RecipeSource
from bosal_server.request_errors import InvalidRequest
from bosal_server.rpc.constraints import constraint_document, constraint_message

# Beyond this a double no longer tells whole numbers apart.
_MAX_EXACT = 2**53
_SOURCES = {
    RecipeSource.SHIPPED: recipe_pb2.RECIPE_SOURCE_SHIPPED,
    RecipeSource.FOLDER: recipe_pb2.RECIPE_SOURCE_FOLDER,
    RecipeSource.CREATED: recipe_pb2.RECIPE_SOURCE_CREATED,
}


def recipe_document(message: recipe_pb2.Recipe) -> dict[str, Any]:
    """Read a recipe as a document; what the message leaves unset, the document lacks."""
    size = message.ByteSize()
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidRequest(
            f"the recipe has {size} bytes; at most {MAX_DOCUMENT_BYTES} are read", field=""
        )
    document: dict[str, Any] = {}
    if message.name:
        document["name"] = message.name
    if message.description:
        document["description"] = message.description
    if message.HasField("scaffold"):
        kind = {"kind": message.scaffold.kind} if message.scaffold.kind else {}
        document["scaffold"] = _merged(kind, message.scaffold.params, "scaffold")
    if message.rules:
        document["rules"] = rule_documents(message.rules, "rules")
    if message.HasField("constraint"):
        document["constraint"] = constraint_document(message.constraint)
    return document


def rule_documents(messages: Sequence[recipe_pb2.Rule], field: str) -> list[dict[str, Any]]:
    """Read rules, unless there are more than any recipe may have."""
    if len(messages) > MAX_RULES:
        raise InvalidRequest(f"at most {MAX_RULES} rules, not {len(messages)}", field=field)
    if sum(message.ByteSize() for message in messages) > MAX_DOCUMENT_BYTES:
        raise InvalidRequest(f"at most {MAX_DOCUMENT_BYTES} bytes of rules are read", field=field)
    return [_rule_document(message, f"{field}[{i}]") for i, message in enumerate(messages)]


def _rule_document(message: recipe_pb2.Rule, field: str) -> dict[str, Any]:
    """Read a rule as `{rule: NAME, **params}`."""
    name = {"rule": message.rule} if message.rule else {}
    return _merged(name, message.params, field)


def recipe_message(document: Mapping[str, Any]) -> recipe_pb2.Recipe:
    """Write a recipe document as protobuf."""
    message = recipe_pb2.Recipe(
        name=document.get("name", ""),
        description=document.get("description", ""),
        rules=[rule_message(rule) for rule in document.get("rules", ())],
    )
    if "scaffold" in document:
        scaffold = document["scaffold"]
        message.scaffold.kind = scaffold["kind"]
        message.scaffold.params.CopyFrom(struct(_without(scaffold, "kind")))
    if "constraint" in document:
        message.constraint.CopyFrom(constraint_message(document["constraint"]))
    return message


def rule_message(document: Mapping[str, Any]) -> recipe_pb2.Rule:
    """Write one `{rule: NAME, **params}` as protobuf."""
    return recipe_pb2.Rule(rule=document["rule"], params=struct(_without(document, "rule")))


def recipe_version(entry: RecipeEntry, *, is_default: bool) -> recipe_pb2.RecipeVersion:
    message = recipe_pb2.RecipeVersion(
        recipe=recipe_message(entry.document),
        version=entry.version,
        is_default=is_default,
        source=_SOURCES[entry.source],
    )
    if entry.created_at is not None:
        message.create_time.FromMicroseconds(entry.created_at)
    if entry.archived_at is not None:
        message.archive_time.FromMicroseconds(entry.archived_at)
    return message


def struct(data: Mapping[str, Any]) -> struct_pb2.Struct:
    """Write plain data as a Struct."""
    message = struct_pb2.Struct()
    message.update(_with_text_keys(data))
    return message


def _merged(head: dict[str, Any], params: struct_pb2.Struct, field: str) -> dict[str, Any]:
    for key in head:
        if key in params.fields:
            raise InvalidRequest(f"{field}: '{key}' cannot be a parameter", field=field)
    return head | {key: _plain(value) for key, value in params.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            # JSON has one kind of number; where a fraction is meant, a whole one is as good.
            return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {key: _plain(item) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            return None


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    return value


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
