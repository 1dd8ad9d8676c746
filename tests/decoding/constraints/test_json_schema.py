"""JSON Schema programs against `jsonschema`, their limits, and the bugs of other matchers."""

import json
import random
from typing import Any

import jsonschema
import pytest
from tests.decoding.constraints.conftest import Compile, accepts, legal_tokens

from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
    InvalidConstraint,
)
from bosal_decoding.constraints.json_schema import read_schema
from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.vocabulary import Vocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ab"]}, "maxItems": 3},
        "home": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def random_schema(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["integer", "number", "string", "boolean", "null", "enum", "const"]
    kind = rng.choice(kinds + (["object", "array", "anyOf"] if depth else []))
    match kind:
        case "integer":
            low = rng.randint(-20, 20)
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 30)}
        case "string":
            low = rng.randint(0, 2)
            return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 3)}
        case "enum":
            return {"enum": rng.sample(["x", "xy", 1, 2.5, None, True, "é"], 3)}
        case "const":
            return {"const": rng.choice(["no", 7, [1, "a"], {"k": None}])}
        case "object":
            names = rng.sample(["a", "b", "ab", "c d"], rng.randint(1, 3))
            return {
                "type": "object",
                "properties": {name: random_schema(rng, depth - 1) for name in names},
                "required": rng.sample(names, rng.randint(0, len(names))),
                "additionalProperties": False,
            }
        case "array":
            low = rng.randint(0, 2)
            return {
                "type": "array",
                "items": random_schema(rng, depth - 1),
                "minItems": low,
                "maxItems": low + rng.randint(0, 2),
            }
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth - 1) for _ in range(2)]}
        case _:
            return {"type": kind}


def random_value(schema: dict[str, Any], rng: random.Random) -> Any:
    """A value that often, not always, fits the schema; objects in the schema's order."""
    if rng.random() < 0.08:
        return rng.choice([None, True, 5, -1, 0.5, "", "x", [], {}, [1], "é"])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return random_value(rng.choice(schema["anyOf"]), rng)
    match schema["type"]:
        case "integer":
            return rng.randint(schema["minimum"] - 1, schema["maximum"] + 1)
        case "number":
            return rng.choice([0, 3.14, -2, 1e20, -0.5])
        case "string":
            length = rng.randint(max(schema["minLength"] - 1, 0), schema["maxLength"] + 1)
            return "".join(rng.choice('ab é日😀"\\\n') for _ in range(length))
        case "boolean":
            return rng.random() < 0.5
        case "object":
            return {
                name: random_value(part, rng)
                for name, part in schema["properties"].items()
                if name in schema["required"] or rng.random() < 0.6
            }
        case "array":
            count = rng.randint(max(schema["minItems"] - 1, 0), schema["maxItems"] + 1)
            return [random_value(schema["items"], rng) for _ in range(count)]
        case _:
            return None


def test_exactly_the_valid_instances_are_reachable(compile_for: Compile, words: Vocabulary) -> None:
    rng = random.Random(5)
    seen = {True: 0, False: 0}
    for _ in range(60):
        schema = random_schema(rng, 2)
        try:
            program = compile_for(words, json_schema=schema)
        except ConstraintUnsatisfiable:
            continue
        validator = jsonschema.Draft202012Validator(schema)
        for _ in range(12):
            value = random_value(schema, rng)
            text = json.dumps(value, ensure_ascii=False, separators=rng.choice([(",", ":"), None]))
            expected = validator.is_valid(value)
            seen[expected] += 1
            assert accepts(program, text, words) == expected, (schema, text)
    assert min(seen.values()) > 100


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "number"}, "3.14", True),
        ({"type": "object", "required": ["a"]}, "{}", False),
        ({"type": "object", "required": ["a"]}, '{"a":1}', True),
        ({"minimum": 5}, "3", False),
        ({"minimum": 5, "type": "integer"}, "3", False),
        ({"maxLength": 1}, '"ab"', False),
        # A character is written as itself: one spelling of a text is enough.
        ({"type": "string"}, '"\\u00e9"', False),
        ({"type": "string"}, '"é\\n\\""', True),
        ({"type": "string"}, '"日本😀"', True),
        (True, '{"x": [1, null]}', True),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", True),
        ({"type": "string", "pattern": "^\\d+$"}, '"12"', True),
        ({"type": "string", "pattern": "^\\d+$"}, '"١٢"', False),
        ({"type": "string", "pattern": "b"}, '"abc"', True),
        (PERSON, '{"name":"A","age":151}', False),
        (PERSON, '{"name":"A","age":7,"tags":["ab","a"],"home":{"zip":"01234"}}', True),
        (PERSON, '{"name":"A","age":7,"home":{"zip":"0123"}}', False),
    ],
)
def test_what_other_matchers_got_wrong(
    compile_for: Compile, words: Vocabulary, schema: Any, text: str, expected: bool
) -> None:
    assert accepts(compile_for(words, json_schema=schema), text, words) == expected


def test_recursion_goes_as_deep_as_the_text(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
        "$ref": "#/$defs/node",
    }
    text = '{"next":' * 20 + "null" + "}" * 20
    assert accepts(compiled(json_schema=schema), text, byte_level_vocabulary)


@pytest.mark.parametrize(
    ("whitespace", "run", "expected"),
    [("bounded", 4, True), ("bounded", 5, False), ("compact", 1, False), ("free", 50, True)],
)
def test_blanks_between_the_parts_are_bounded(
    compiled: Compile, byte_level_vocabulary: Vocabulary, whitespace: str, run: int, expected: bool
) -> None:
    program = compiled(json_schema={"type": "array"}, whitespace=whitespace)
    for blank in (" ", "\n"):
        assert accepts(program, f"[1,{blank * run}2]", byte_level_vocabulary) == expected


def test_the_order_of_properties_is_the_order_they_are_written_in(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    for names in (["b", "a"], ["a", "b"]):
        schema = {
            "type": "object",
            "properties": {name: {"type": "integer"} for name in names},
            "required": names,
        }
        text = "{" + ",".join(f'"{name}":1' for name in names) + "}"
        assert accepts(compiled(json_schema=schema), text, byte_level_vocabulary)


def test_special_tokens_are_legal_nowhere_in_a_string(
    compile_for: Compile, words: Vocabulary
) -> None:
    state = compile_for(words, json_schema={"type": "string"}).new_state()
    state.advance(words.token_bytes.index(b'"'))
    legal = legal_tokens(state, words)
    assert len(legal) > 100
    assert all(words.token_bytes[token] for token in legal)


@pytest.mark.parametrize(
    ("schema", "error", "word"),
    [
        ({"type": "array", "contains": {}}, ConstraintUnsupported, "contains"),
        ({"not": {}}, ConstraintUnsupported, "not"),
        ({"type": "array", "uniqueItems": True}, ConstraintUnsupported, "uniqueItems"),
        ({"if": {}, "then": {}}, ConstraintUnsupported, "if"),
        ({"type": "string", "format": "nonsense"}, ConstraintUnsupported, "format"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ConstraintUnsupported, "oneOf"),
        ({"$ref": "https://example.com/s"}, ConstraintUnsupported, "ref"),
        ({"x-guidance": {"lenient": True}}, ConstraintUnsupported, "x-guidance"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, ConstraintUnsatisfiable, "minimum"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, ConstraintUnsatisfiable, "minLength"),
        (False, ConstraintUnsatisfiable, "empty"),
        ({"type": "strng"}, ConstraintSyntax, "strng"),
        ({"$ref": "#/$defs/none"}, ConstraintSyntax, "none"),
        ("{", ConstraintSyntax, "JSON"),
        ("[]", ConstraintSyntax, "object"),
        ('{"minimum": NaN}', ConstraintSyntax, "NaN"),
        (r'{"const": "\ud800"}', ConstraintSyntax, "lone surrogate"),
        (r'{"properties": {"\udfff": {}}}', ConstraintSyntax, "lone surrogate"),
        ({"type": "string", "maxLength": 10_001}, ConstraintTooLarge, "maxLength"),
        ({"enum": list(range(10_001))}, ConstraintTooLarge, "10001"),
        ('{"items":' * 70 + "{}" + "}" * 70, ConstraintTooLarge, "64"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, ConstraintTooLarge, "64"),
        ({"type": "string", "pattern": "x{10001}"}, ConstraintTooLarge, "10001"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    compiled: Compile, schema: Any, error: type[InvalidConstraint], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        compiled(json_schema=schema)
    assert caught.value.field == "json_schema"


def test_a_schema_beyond_the_size_limit_is_refused_as_a_document(compiled: Compile) -> None:
    with pytest.raises(InvalidRecipe, match="65536"):
        compiled(json_schema={"description": "x" * 70_000})


def test_unsupported_keywords_are_left_out_only_when_that_is_asked_for(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}
    program = compiled(json_schema=schema, allow_unsupported=True)
    assert program.ignored == ("uniqueItems",)
    assert program.json_schema is not None
    assert json.loads(program.json_schema) == schema
    assert accepts(program, "[1,1]", byte_level_vocabulary)
    assert not accepts(program, '["a"]', byte_level_vocabulary)
    assert compiled(json_schema={"type": "null"}, allow_unsupported=True).ignored == ()


@pytest.mark.parametrize("name", ["default", "enum", "const", "examples"])
def test_what_a_property_is_called_hides_nothing_below_it(name: str) -> None:
    remote = {"properties": {name: {"$ref": "https://example.com/schema"}}}
    with pytest.raises(ConstraintUnsupported, match="another document"):
        read_schema(json.dumps(remote), max_repetition=100)
    long = {"properties": {name: {"type": "string", "minLength": 101}}}
    with pytest.raises(ConstraintTooLarge, match="minLength"):
        read_schema(json.dumps(long), max_repetition=100)
    # Data of that name is data still.
    read_schema(json.dumps({name: [{"$ref": "https://example.com/schema"}]}), max_repetition=100)
