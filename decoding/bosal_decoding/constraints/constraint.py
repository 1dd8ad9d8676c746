"""The constraint of a recipe or a request: which language the output must belong to."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from bosal_decoding.constraints.limits import (
    MAX_CHOICE_BYTES,
    MAX_CHOICES,
    MAX_REGEX_BYTES,
    MAX_SPEC_BYTES,
)
from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.limits import MAX_NAME_CHARS
from bosal_decoding.schema import Schema, Text, at_most_bytes

Kind = Literal["choice", "regex", "json_schema", "grammar", "python_type"]
Backend = Literal["llguidance", "outlines_core", "xgrammar"]
Whitespace = Literal["bounded", "compact", "free"]
KINDS: Final[tuple[Kind, ...]] = ("choice", "regex", "json_schema", "grammar", "python_type")
BACKENDS: Final[tuple[Backend, ...]] = ("llguidance", "outlines_core", "xgrammar")


# Options of JSON alone.
_OF_SCHEMAS: Final = ("whitespace", "rules_in_strings", "allow_unsupported")


def _schema_text(value: object) -> object:
    # As text, because the order of properties is the order they are written in, and no document
    # format keeps both that order and whole numbers.
    if isinstance(value, Mapping | bool):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


def _bounded(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a choice is given twice")
    if (num_bytes := sum(len(value.encode()) for value in values)) > MAX_CHOICE_BYTES:
        raise ValueError(f"choices of {num_bytes} bytes together; at most {MAX_CHOICE_BYTES}")
    return values


class Constraint(Schema):
    """A hard language, in exactly one of its forms, and how strictly it is read."""

    choice: Annotated[
        tuple[Text, ...] | None, Field(min_length=1, max_length=MAX_CHOICES, strict=False)
    ] = None
    """The output is one of these texts."""
    regex: Annotated[str, Field(min_length=1), at_most_bytes(MAX_REGEX_BYTES)] | None = None
    """The whole output matches this pattern, in the dialect of `docs/constraints.md`."""
    json_schema: Annotated[str, Field(min_length=1), at_most_bytes(MAX_SPEC_BYTES)] | None = None
    """The output is JSON that this JSON Schema (2020-12) accepts; a mapping or its text."""
    grammar: Annotated[str, Field(min_length=1), at_most_bytes(MAX_SPEC_BYTES)] | None = None
    """The output belongs to this context-free grammar."""
    syntax: Literal["lark", "gbnf"] = "lark"
    """How the grammar is written."""
    python_type: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    """The output is a value of a type the operator has registered under this name."""
    backend: Backend = "llguidance"
    """The matcher; another one is used only when it is named."""
    whitespace: Whitespace = "bounded"
    """Between the parts of JSON: at most four blanks, none, or as much as the model likes."""
    rules_in_strings: bool = False
    """Let rules that stand down inside a constraint act in the contents of JSON strings."""
    allow_unsupported: bool = False
    """Ignore JSON Schema keywords that cannot be enforced, report them, and validate the text."""

    @model_validator(mode="before")
    @classmethod
    def _normal(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "json_schema" in data:
            return {**data, "json_schema": _schema_text(data["json_schema"])}
        return data

    @model_validator(mode="after")
    def _one_kind(self) -> "Constraint":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f"not {' and '.join(given)}" if given else "none is given"
            raise ValueError(f"needs exactly one of {', '.join(KINDS)}; {what}")
        if self.choice is not None:
            _bounded(self.choice)
        if self.grammar is None and "syntax" in self.model_fields_set:
            raise ValueError("'syntax' goes with 'grammar' alone")
        if self.json_schema is None and self.python_type is None:
            for field in _OF_SCHEMAS:
                if field in self.model_fields_set:
                    raise ValueError(f"'{field}' goes with 'json_schema' alone")
        return self

    @property
    def kind(self) -> Kind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def with_options(self, other: "Constraint") -> "Constraint":
        """Take over the options another constraint sets.

        Raises:
            InvalidRecipe: this one has no use for one of them.
        """
        for name in _OF_SCHEMAS:
            if self.json_schema is None and name in other.model_fields_set:
                why = f"the type is a {self.kind}; '{name}' goes with a JSON Schema alone"
                raise InvalidRecipe.at(name, why)
        options = ("backend", "whitespace", "allow_unsupported")
        chosen = {name: getattr(other, name) for name in options if name in other.model_fields_set}
        return self.model_copy(update=chosen)

    def set_fields(self) -> dict[str, Any]:
        """The fields the author set; a kind that is null is not."""
        return {key: value for key, value in super().set_fields().items() if value is not None}

    def __hash__(self) -> int:
        return hash((self.kind, self.choice, self.regex, self.json_schema, self.grammar))


def read_constraint(entry: object, field: str) -> Constraint:
    """Parse a constraint found at `field` of a document."""
    if not isinstance(entry, Mapping):
        raise InvalidRecipe.at(field, f"must be a mapping with one of {', '.join(KINDS)}")
    return Constraint.read(entry, field)
