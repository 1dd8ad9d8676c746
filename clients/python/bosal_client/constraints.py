"""Constraints on the wire, and pydantic classes as constraints."""

import json
from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

from bosal.v1 import recipe_pb2
from bosal_client import results
from bosal_client.errors import IncompleteAnswer, InvalidRequest

__all__ = ["ResponseModel", "constraint_document", "constraint_message", "constraint_of", "parsed"]

_KINDS = ("choice", "regex", "json_schema", "grammar", "python_type")
_FLAGS = ("backend", "whitespace", "allow_unsupported", "rules_in_strings")
_OPTIONS = ("syntax", *_FLAGS)
_WHOLE = ("constraint_complete", "constraint_closed", "stop_token")


class ResponseModel(Protocol):
    """What a pydantic class brings along: its schema, and how an instance is read."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...

    @classmethod
    def model_validate_json(cls, json_data: str) -> Self: ...


Answer = TypeVar("Answer", bound=ResponseModel)


def constraint_of(response_model: type[ResponseModel]) -> dict[str, Any]:
    """Return the constraint whose texts are instances of a pydantic class."""
    return {"json_schema": response_model.model_json_schema()}


def parsed(response_model: type[Answer], generation: results.Generation) -> Answer:
    """Read the one answer of a generation as an instance.

    Raises:
        IncompleteAnswer: it was cut off, or does not fit the class after all.
    """
    choice = generation.choices[0]
    if choice.finish_reason not in _WHOLE:
        why = f"the answer is not whole: it ended with {choice.finish_reason}"
        raise IncompleteAnswer(why, text=choice.text)
    try:
        return response_model.model_validate_json(choice.text)
    except ValueError as error:
        why = f"the answer is no {response_model.__name__}: {error}"
        raise IncompleteAnswer(why, text=choice.text) from error


def constraint_message(document: Mapping[str, Any], field: str) -> recipe_pb2.Constraint:
    """Write a constraint's document as protobuf; `field` is where it goes in the request."""
    if not isinstance(document, Mapping):
        raise _invalid(field, f"must be a mapping with one of {', '.join(_KINDS)}")
    given = {name: value for name, value in document.items() if value is not None}
    for name in given:
        if name not in (*_KINDS, *_OPTIONS):
            known = ", ".join((*_KINDS, *_OPTIONS))
            raise _invalid(f"{field}.{name}", f"a constraint has no such field; it has {known}")
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        raise _invalid(field, f"needs exactly one of {', '.join(_KINDS)}")
    kind, value = kinds[0], given[kinds[0]]
    message = recipe_pb2.Constraint()
    try:
        if kind == "choice":
            message.choice.values.extend(value)
        elif kind == "grammar":
            message.grammar.text = value
            message.grammar.syntax = given.get("syntax", "")
        elif kind == "json_schema" and not isinstance(value, str):
            message.json_schema = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        else:
            setattr(message, kind, value)
        for option in _FLAGS:
            if option in given:
                setattr(message, option, given[option])
    except (TypeError, ValueError) as error:
        raise _invalid(field, str(error)) from error
    return message


def constraint_document(message: recipe_pb2.Constraint) -> dict[str, Any]:
    """Read a constraint message as the document it stands for; unset fields are left out."""
    document: dict[str, Any] = {}
    match message.WhichOneof("kind"):
        case "choice":
            document["choice"] = list(message.choice.values)
        case "grammar":
            document["grammar"] = message.grammar.text
            if message.grammar.syntax:
                document["syntax"] = message.grammar.syntax
        case str(kind):
            document[kind] = getattr(message, kind)
    for option in _FLAGS:
        if value := getattr(message, option):
            document[option] = value
    return document


def _invalid(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {why}", reason="INVALID_PARAMETER", field=field)
