"""Rules that leave nothing together, pair by pair, found at compile where it is certain."""

from collections.abc import Iterator
from typing import Any

import pytest

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraint_conflicts import check_program
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.errors import DecodingError, RuleConflict
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.vocabulary import Vocabulary


def plan_of(vocabulary: Vocabulary, *rules: dict[str, Any], **fields: Any) -> Plan:
    recipe = Recipe.parse({"rules": list(rules), **fields})
    return compile_recipe(recipe, vocabulary, context_tokens=256)


def allow(*strings: str, end: bool = False, **scope: Any) -> dict[str, Any]:
    return {"rule": "allowed_tokens", "strings": list(strings), "allow_end": end, **scope}


def ban(*strings: str, **scope: Any) -> dict[str, Any]:
    return {"rule": "banned_strings", "values": list(strings), **scope}


PREFILL = {"rule": "prefill", "text": "I am"}
LAST = {"rule": "forced_phrases", "phrases": [{"text": " I am"}]}
PLACED = {"rule": "forced_phrases", "phrases": [{"text": " I am", "at": 5}]}
LEAST = {"rule": "min_tokens", "value": 5}
# There is no constraint.
NEVER = {"rule": "allowed_scripts", "scripts": ["Greek"], "scope": "inside_constraint"}
FIRST, LATER = {"scope": {"first": 3}}, {"scope": {"after": 3}}
INSIDE, UNSURE = {"scope": "inside_constraint"}, {"when": {"top1_below": 0.5}}
NUDGED = {"rule": "nudging", "guide_scaffold": {"kind": "qa"}}
USED = {"rule": "used_token_weight", "weight": -1}
DRY = {"rule": "dry", "multiplier": 1}
STOP = {"rule": "stop_strings", "values": ["\nQ:"]}


@pytest.mark.parametrize(
    ("rules", "first", "second"),
    [
        ([LEAST, {"rule": "max_tokens", "value": 4}], "min_tokens", "max_tokens"),
        (
            [allow("a"), {"rule": "allowed_scripts", "scripts": ["Han"], "common": False}],
            "allowed_scripts",
            "allowed_tokens",
        ),
        ([{"rule": "allowed_tokens", "ids": [0]}, LEAST], "min_tokens", "allowed_tokens"),
        ([NEVER, {"rule": "allowed_tokens", "ids": [0]}, LEAST], "min_tokens", "allowed_tokens"),
        ([allow("a"), {"rule": "eos_ramp", "weight": 1, "over": 9}], "eos_ramp", "allowed_tokens"),
        (
            [allow("a"), {"rule": "exponential_decay_length", "start": 3, "factor": 1.1}],
            "exponential_decay_length",
            "allowed_tokens",
        ),
        ([allow("a"), {"rule": "no_repeat_ngram", "n": 2}], "no_repeat_ngram", "allowed_tokens"),
        ([allow("a", "h"), ban("a", "h")], "banned_strings", "allowed_tokens"),
        (
            [{"rule": "stop_strings", "values": ["\nQ:"]}, ban("Q:")],
            "banned_strings",
            "stop_strings",
        ),
        (
            [
                {"rule": "temperature", "value": 1},
                {"rule": "dynamic_temperature", "low": 1, "high": 2},
            ],
            "dynamic_temperature",
            "temperature",
        ),
        ([{"rule": "mirostat"}, {"rule": "top_k", "k": 3}], "mirostat", "top_k"),
        ([PREFILL, ban("am")], "prefill", "banned_strings"),
        ([PREFILL, {"rule": "stop_strings", "values": ["I"]}], "prefill", "stop_strings"),
        ([PREFILL, {"rule": "stop_regex", "pattern": "a[mn]"}], "prefill", "stop_regex"),
        ([LAST, ban("am")], "forced_phrases", "banned_strings"),
        ([LAST, {"rule": "stop_strings", "values": ["am"]}], "forced_phrases", "stop_strings"),
        (
            [LAST, NUDGED],
            "forced_phrases",
            "nudging",
        ),
        (
            [
                PLACED,
                {**ban("am"), "scope": {"after": 4, "first": 20}},
            ],
            "forced_phrases",
            "banned_strings",
        ),
        ([{**STOP, **LATER}, {**ban("Q:"), **LATER}], "banned_strings", "stop_strings"),
        ([{"rule": "guidance"}, {"rule": "context_aware"}], "guidance", "context_aware"),
        ([{"rule": "guidance", **FIRST}, {"rule": "guidance", **LATER}], "guidance", "guidance"),
        ([{**NUDGED, **FIRST}, {**NUDGED, **LATER}], "nudging", "nudging"),
        # What tokens of the instruction are, and what breaks runs, is the choice's.
        (
            [{**USED, **FIRST, "include_instruction": True}, {**USED, **LATER}],
            "used_token_weight",
            "used_token_weight",
        ),
        (
            [{"rule": "mirostat", "tau": 3, **FIRST}, {"rule": "mirostat", "tau": 5, **LATER}],
            "mirostat",
            "mirostat",
        ),
        ([{**DRY, **FIRST, "breakers": ["\n"]}, {**DRY, **LATER}], "dry", "dry"),
    ],
)
def test_pairs_that_leave_nothing_are_refused_with_both_names(
    vocabulary: Vocabulary, rules: list[dict[str, Any]], first: str, second: str
) -> None:
    for both in (rules, rules[::-1]) if second != "top_k" else (rules,):
        with pytest.raises(RuleConflict, match="contradicts") as caught:
            plan_of(vocabulary, *both)
        assert set(caught.value.metadata.values()) == {first, second}
        assert (caught.value.field or "").startswith("rules[")


@pytest.mark.parametrize(
    "rules",
    [
        [{**allow("a"), **FIRST}, {**allow("b"), **LATER}],
        [{"rule": "allowed_tokens", "ids": [0], **LATER}, {**LEAST, **FIRST}],
        [allow("a", end=True), {"rule": "eos_ramp", "weight": 1, "over": 9}],
        [allow("a", "h"), {"rule": "no_repeat_ngram", "n": 2}],
        [{**allow("a"), **FIRST}, {**ban("a"), **LATER}],
        [{"rule": "stop_strings", "values": ["\nQ:"], **FIRST}, {**ban("Q:"), **LATER}],
        [PREFILL, {"rule": "stop_strings", "values": ["am I"]}],
        [PREFILL, LAST, LEAST],
        [{"rule": "guidance"}, NUDGED],
        [{**USED, **FIRST}, {**USED, "weight": 1, **LATER}],
        [{**DRY, **FIRST, "multiplier": 2}, {**DRY, **LATER}],
        # What a gate decides is not certain.
        [
            {**allow("a"), **UNSURE},
            {"rule": "allowed_scripts", "scripts": ["Han"], "common": False},
        ],
        [{**allow("a", "h"), **UNSURE}, ban("a", "h")],
        [STOP, {**ban("Q:"), **UNSURE}],
        # The stop string may come where it is not banned.
        [STOP, {**ban("Q:"), **LATER}],
        # Only another of the rules that ban would be in the way.
        [{**STOP, **FIRST}, {**ban("Q:"), **LATER}, {**ban("zz"), **FIRST}],
        # Without a constraint nothing is inside of one.
        [allow("a"), {"rule": "eos_ramp", "weight": 1, "over": 9, **INSIDE}],
        [
            {"rule": "temperature", "value": 1, **INSIDE},
            {"rule": "dynamic_temperature", "low": 1, "high": 2},
        ],
        [{"rule": "mirostat", **INSIDE}, {"rule": "top_k", "k": 3}],
        # Where the phrase stands nobody bans it.
        [
            PLACED,
            {**ban("am"), **FIRST},
        ],
        [
            PLACED,
            {**ban("am"), "scope": {"after": 40}},
        ],
        [PREFILL, {**ban("am"), **LATER, **UNSURE}],
    ],
)
def test_pairs_that_leave_something_are_let_be(
    vocabulary: Vocabulary, rules: list[dict[str, Any]]
) -> None:
    plan_of(vocabulary, *rules)


def test_of_two_rules_that_ban_the_one_in_the_way_is_named(vocabulary: Vocabulary) -> None:
    for rules, field in (
        ([{**ban("Q:"), **FIRST}, {**ban("zz"), **LATER}, {**STOP, **FIRST}], "rules[0]"),
        ([{**ban("zz"), **FIRST}, {**ban("Q:"), **LATER}, {**STOP, **LATER}], "rules[1]"),
    ):
        with pytest.raises(RuleConflict) as caught:
            plan_of(vocabulary, *rules)
        assert caught.value.field == field


def test_a_prefill_must_be_allowed(vocabulary: Vocabulary) -> None:
    messages = [Message(role="user", text="Who?")]
    ids = list(vocabulary.encode("I am"))
    some = {"rule": "allowed_tokens", "ids": ids}
    plan_of(vocabulary, {**PREFILL, "heal": False}, some).prompts(messages)
    with pytest.raises(RuleConflict, match="'prefill' contradicts 'allowed_tokens'"):
        plan_of(vocabulary, {**PREFILL, "heal": False}, allow("h")).prompts(messages)
    later = {**allow("h"), "scope": {"after": len(ids)}}
    plan_of(vocabulary, {**PREFILL, "heal": False}, later).prompts(messages)
    with pytest.raises(RuleConflict, match="'prefill' contradicts 'allowed_tokens'") as caught:
        plan_of(vocabulary, {**PREFILL, "heal": False}, NEVER, allow("h")).prompts(messages)
    assert caught.value.field == "rules[2]"


@pytest.fixture(scope="module")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler()
    yield compiler
    compiler.close()


SHORT = {"choice": ["no", "yes"]}
OPEN = {"regex": "[a-z ]+"}


@pytest.mark.parametrize(
    ("rule", "constraint", "is_refused"),
    [
        (LEAST, SHORT, True),
        (LEAST, {"json_schema": {"type": "boolean"}}, True),
        (LEAST, OPEN, False),
        ({**LEAST, "scope": "outside_constraint"}, SHORT, False),
        ({**LEAST, "when": {"entropy_above": 3}}, SHORT, False),
        (allow("I"), SHORT, True),
        ({**allow("I"), "scope": {"after": 2}}, SHORT, False),
        (allow("n", "y"), SHORT, False),
        ({**PREFILL, "text": "ye"}, SHORT, False),
        ({**PREFILL, "text": "maybe"}, SHORT, True),
        ({**PREFILL, "text": "nothing"}, SHORT, True),
        (ban("o", "s"), SHORT, True),
        (ban("o"), SHORT, False),
        (LAST, OPEN, True),
    ],
)
def test_a_constraint_and_a_rule(
    vocabulary: Vocabulary,
    compiler: ConstraintCompiler,
    rule: dict[str, Any],
    constraint: dict[str, Any],
    is_refused: bool,
) -> None:
    def run() -> None:
        plan = plan_of(vocabulary, rule, constraint=constraint)
        (prompt,) = plan.prompts([Message(role="user", text="Who?")])
        assert plan.recipe.constraint is not None
        opening = prompt.opening
        lead = opening.hidden + plan.recipe.scaffold.lead
        program = compiler.compile(plan.recipe.constraint, vocabulary, lead)
        check_program(plan, program, opening)

    if not is_refused:
        run()
        return
    with pytest.raises(RuleConflict) as caught:
        run()
    assert set(caught.value.metadata.values()) == {rule["rule"], "constraint"}


def test_infinite_weights_are_no_weights(vocabulary: Vocabulary) -> None:
    for weight in (float("-inf"), float("nan"), -20_000.0):
        with pytest.raises(DecodingError) as caught:
            plan_of(vocabulary, {"rule": "token_weights", "weights": {"a": weight}})
        assert caught.value.field == "rules[0].weights.a"
