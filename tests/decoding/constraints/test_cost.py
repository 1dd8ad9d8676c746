"""Constraints that are compiled without a trial, and those that never are."""

import random
from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits
from tests.decoding.constraints.test_compiler import WORST

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.cost import is_cheap
from bosal_decoding.constraints.errors import InvalidConstraint
from bosal_decoding.constraints.llguidance_compiler import LlguidanceCompiler
from bosal_decoding.constraints.llguidance_grammar import grammar_of
from bosal_decoding.constraints.spelling import Spelling
from bosal_decoding.constraints.trial import TrialKilled
from bosal_decoding.vocabulary import Vocabulary

CHEAP: list[dict[str, Any]] = [
    {"choice": ["yes", "no"]},
    {"regex": r"\d{4}-\d\d-\d\d"},
    {"json_schema": {"type": "array", "items": {"type": "number"}, "maxItems": 20}},
    {
        "json_schema": {
            "title": "Order",
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 1},
                "by": {"$ref": "#/$defs/Person"},
                "note": {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "null"}]},
                "day": {"type": "string", "format": "date"},
            },
            "required": ["id", "by"],
            "additionalProperties": False,
            "$defs": {"Person": {"type": "object", "properties": {"name": {"type": "string"}}}},
        }
    },
]
COSTLY: list[dict[str, Any]] = [
    WORST["long run"],
    WORST["large enum"],
    WORST["many items"],
    WORST["ambiguous"],
    WORST["endless"],
    WORST["nested"],
    {"choice": [f"choice number {n}" for n in range(1000)]},
    {"regex": "((a{20}){20}){20}"},
    {"regex": "a(?=b)"},
    {"grammar": 'start: "a"'},
    {"json_schema": "{"},
    {"json_schema": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}},
    {"json_schema": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}},
    {"json_schema": {"type": "string", "pattern": "a", "maxLength": 3}},
    {"json_schema": {"type": "string", "minLength": "3"}},
    {"json_schema": {"anyOf": {}}},
    {"json_schema": {"type": "array", "items": {"patternProperties": {"a": {}}}}},
    {"json_schema": {"properties": {"a": {"not": {}}}}},
    {"json_schema": {"type": "integer", "multipleOf": 7}},
]


@pytest.mark.parametrize("fields", CHEAP)
def test_what_people_use_needs_no_trial(
    byte_level_vocabulary: Vocabulary, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = LlguidanceCompiler()

    def ask(*_: object) -> dict[str, Any]:
        raise TrialKilled("nobody is there")

    monkeypatch.setattr(compiler._trial, "ask", ask)
    spelling = Spelling(byte_level_vocabulary)
    program = compiler.compile("", Constraint.read(fields, ""), spelling, "")
    assert program.close is not None


@pytest.mark.parametrize("fields", COSTLY)
def test_what_is_not_known_to_be_cheap_is_tried(
    byte_level_vocabulary: Vocabulary, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = Constraint.read(fields, "")
    assert not is_cheap(constraint)
    compiler = LlguidanceCompiler()
    asked = []

    def ask(request: dict[str, Any], _: float) -> dict[str, Any]:
        asked.append(request)
        return {"error": "tried"}

    monkeypatch.setattr(compiler._trial, "ask", ask)
    with pytest.raises(InvalidConstraint) as caught:
        compiler.compile("", constraint, Spelling(byte_level_vocabulary), "")
    assert asked or "tried" not in str(caught.value)


def _pattern(chance: random.Random, depth: int) -> str:
    pick = chance.random()
    if depth == 0 or pick < 0.25:
        return chance.choice(["a", "b", ".", "[ab]", "[^a]", "é", "[a-z]"])
    if pick < 0.5:
        return "".join(_pattern(chance, depth - 1) for _ in range(chance.randint(2, 4)))
    if pick < 0.7:
        parts = [_pattern(chance, depth - 1) for _ in range(chance.randint(2, 4))]
        return f"(?:{'|'.join(parts)})"
    times = chance.choice(["*", "+", "?", "{3}", "{2,5}", "{0,90}", "{7}"])
    return f"(?:{_pattern(chance, depth - 1)}){times}"


def test_whatever_is_cheap_compiles_with_a_tenth_of_the_fuel(
    byte_level_vocabulary: Vocabulary,
) -> None:
    chance = random.Random(5)
    tokenizer = LlguidanceCompiler().prepare(Spelling(byte_level_vocabulary))
    tight = LLParserLimits(
        initial_lexer_fuel=100_000,
        step_lexer_fuel=20_000,
        max_lexer_states=5_000,
        max_grammar_size=20_000,
    )
    num_cheap = 0
    for _ in range(300):
        pattern = _pattern(chance, 4)
        as_string = {"type": "string", "pattern": pattern}
        for fields in ({"regex": pattern}, {"json_schema": as_string}):
            constraint = Constraint.read(fields, "")
            if is_cheap(constraint):
                num_cheap += 1
                matcher = LLMatcher(
                    tokenizer.native, grammar_of(constraint, ""), log_level=0, limits=tight
                )
                matcher.compute_bitmask()
                assert not matcher.is_error(), (pattern, matcher.get_error())
    assert num_cheap > 200
