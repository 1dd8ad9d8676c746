"""Schemas rewritten in plainer words mean what they meant, as another library reads both."""

import json
from typing import Any

import jsonschema
import pytest
from tests.decoding.constraints.conftest import Compile, accepts

from bosal_decoding.constraints.errors import ConstraintSyntax, ConstraintUnsupported
from bosal_decoding.constraints.plain_schema import plain_schema
from bosal_decoding.vocabulary import Vocabulary

VALUES: list[Any] = [
    None, True, 0, 1, 3, "a", "abc", "abcd", [], [1], [1, "a"], [1, 2, 3], {}, {"a": 1},
    {"a": "x"}, {"a": 1, "b": 2}, {"b": 2}, {"c": True, "d": None},
]  # fmt: skip
SCHEMAS: list[dict[str, Any]] = [
    {"maxLength": 3.0},
    {"minItems": 1.0, "maxItems": 2.0},
    {"minProperties": 1.0},
    {"then": {"type": "null"}},
    {"else": {"type": "null"}, "type": "integer"},
    {"minContains": 2, "maxContains": 2},
    {"if": {"type": "null"}},
    {"unevaluatedProperties": True, "unevaluatedItems": True},
    {"properties": {"a": {"type": "integer"}}, "unevaluatedProperties": False},
    {"properties": {"a": {}}, "unevaluatedProperties": {"type": "integer"}},
    {"patternProperties": {"^[ab]$": {}}, "unevaluatedProperties": False},
    # Two patterns that are written alike.
    {"patternProperties": {"^[a-b]$": {"minimum": 2}, "^[ab]$": {"type": "integer"}}},
    {"prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
    {"prefixItems": [{"type": "integer"}], "unevaluatedItems": {"type": "string"}},
    {"items": {"type": "integer"}, "unevaluatedItems": False},
    {"additionalProperties": {"type": "integer"}, "unevaluatedProperties": False},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_plain_schema_accepts_what_the_schema_accepts(
    schema: dict[str, Any], compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    plain = plain_schema(schema, max_repetition=100)
    program = compiled(json_schema=schema)
    for value in VALUES:
        is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert jsonschema.Draft202012Validator(plain).is_valid(value) == is_valid, value
        text = json.dumps(value, separators=(",", ":"))
        assert accepts(program, text, byte_level_vocabulary) == is_valid, value


@pytest.mark.parametrize(
    "schema",
    [
        # Beside it another schema evaluates too.
        {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
        {"if": {"properties": {"a": {}}}, "unevaluatedProperties": False},
        {"contains": {"const": 1}, "unevaluatedItems": False},
        {"$ref": "https://example.org/other#/$defs/a"},
    ],
)
def test_what_has_no_plainer_word_is_refused(schema: dict[str, Any], compiled: Compile) -> None:
    with pytest.raises(ConstraintUnsupported):
        compiled(json_schema=schema)


def test_an_address_within_the_document_is_followed(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    schema = {
        "$ref": "https://example.org/whole",
        "$defs": {"one": {"$id": "https://example.org/whole", "type": "integer"}},
    }
    program = compiled(json_schema=schema)
    assert accepts(program, "3", byte_level_vocabulary)
    assert not accepts(program, '"3"', byte_level_vocabulary)


def test_a_number_beyond_64_bits_is_refused(compiled: Compile) -> None:
    with pytest.raises(ConstraintSyntax, match="beyond"):
        compiled(json_schema='{"const": 1e400}')
