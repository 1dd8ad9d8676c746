"""Python types through Outlines, as constraints of ours."""

import enum
import json
import sys
from dataclasses import dataclass
from datetime import date
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from tests.decoding.constraints.conftest import accepts
from typing_extensions import TypedDict

from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import ConstraintSyntax, ConstraintUnsupported
from bosal_decoding.constraints.frontend import constraint_of, load_types
from bosal_decoding.vocabulary import Vocabulary


class Pet(BaseModel):
    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=30)


@dataclass
class Point:
    x: int
    y: int


class Named(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("python_type", "kind", "good", "bad"),
    [
        (Pet, "json_schema", '{"name":"Rex","age":3}', '{"name":"Rex","age":31}'),
        (Point, "json_schema", '{"x":1,"y":-2}', '{"x":1}'),
        (Named, "json_schema", '{"name":"a"}', '{"name":1}'),
        (Literal["yes", "no", "not sure"], "choice", "not sure", "not"),
        (Colour, "choice", "blue", "BLUE"),
        (int, "regex", "-12", "1.5"),
        (float, "regex", "3.14", "3."),
        (bool, "regex", "True", "true"),
        (date, "regex", "2026-11-27", "2026-13-27"),
        (int | None, "regex", "None", "none"),
        (list[int], "regex", "[1, 2]", "[1,2]"),
        (Literal["a", 1], "regex", "1", "b"),
    ],
)
def test_a_type_becomes_the_language_of_its_values(
    compiler: ConstraintCompiler,
    byte_level_vocabulary: Vocabulary,
    python_type: Any,
    kind: str,
    good: str,
    bad: str,
) -> None:
    constraint = constraint_of(python_type)
    assert constraint.kind == kind
    program = compiler.compile(constraint, byte_level_vocabulary)
    assert accepts(program, good, byte_level_vocabulary)
    assert not accepts(program, bad, byte_level_vocabulary)


def test_a_model_keeps_the_order_of_its_fields() -> None:
    schema = constraint_of(Pet).json_schema
    assert schema is not None
    assert list(json.loads(schema)["properties"]) == ["name", "age"]


def test_a_type_without_a_reading_is_refused() -> None:
    with pytest.raises(ConstraintUnsupported, match="not supported"):
        constraint_of(complex(1, 2))


def test_types_are_loaded_by_name_from_the_operators_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("pets")
    module.Pet = Pet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pets", module)
    types = load_types(["pet=pets:Pet", "name=pets:Pet.__name__"])
    assert types["pet"] == constraint_of(Pet)
    assert types["name"].regex == "Pet" or types["name"].kind in ("regex", "choice")
    for entry in ("pet", "pet=pets", "pet=:Pet", "p t=pets:Pet", "pet=pets:Cat", "pet=nopets:Pet"):
        with pytest.raises(ConstraintSyntax, match="python type"):
            load_types([entry])
    with pytest.raises(ConstraintSyntax, match="two"):
        load_types(["pet=pets:Pet", "pet=pets:Pet"])
