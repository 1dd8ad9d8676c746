"""What a wrong recipe or rule gets: the name at fault, and the nearest that is known."""

import math

import pytest
from tests.server.rpc.refusals import Refusal, check_refused

from bosal_client import Client, InvalidRequest, NotFound

CASES: list[Refusal] = [
    (
        "unknown recipe",
        lambda c: c.generate("Hi", recipe="steerd"),
        NotFound,
        "UNKNOWN_RECIPE",
        "spec.recipe",
        "'steered'",
    ),
    (
        "unknown recipe version",
        lambda c: c.generate("Hi", recipe="plain@0123456789abcdef"),
        NotFound,
        "UNKNOWN_RECIPE_VERSION",
        "spec.recipe",
        "plain@",
    ),
    (
        "unknown rule",
        lambda c: c.generate("Hi", overrides=[{"rule": "temperatur", "value": 1}]),
        InvalidRequest,
        "UNKNOWN_NAME",
        "spec.overrides[0].rule",
        "'temperature'",
    ),
    (
        "unknown scaffold",
        lambda c: c.generate("Hi", recipe={"scaffold": {"kind": "turn"}}),
        InvalidRequest,
        "UNKNOWN_NAME",
        "spec.inline_recipe.scaffold.kind",
        "'turns'",
    ),
    (
        "unknown field of a rule",
        lambda c: c.generate("Hi", recipe={"rules": [{"rule": "top_p", "prob": 0.5}]}),
        InvalidRequest,
        "INVALID_RECIPE",
        "spec.inline_recipe.rules[0].prob",
        "known: p",
    ),
    (
        "parameter out of range",
        lambda c: c.generate("Hi", overrides=[{"rule": "top_p", "p": 1.5}]),
        InvalidRequest,
        "INVALID_RECIPE",
        "spec.overrides[0].p",
        "1",
    ),
    (
        "parameter of the wrong type",
        lambda c: c.generate("Hi", overrides=[{"rule": "top_k", "k": "many"}]),
        InvalidRequest,
        "INVALID_RECIPE",
        "spec.overrides[0].k",
        "",
    ),
    (
        "parameter that is no number",
        lambda c: c.generate("Hi", overrides=[{"rule": "temperature", "value": math.nan}]),
        InvalidRequest,
        "INVALID_RECIPE",
        "spec.overrides[0].value",
        "",
    ),
    (
        "token string that no token spells",
        lambda c: c.generate(
            "Hi", overrides=[{"rule": "token_weights", "weights": {"zyzzyva": -1}}]
        ),
        InvalidRequest,
        "UNKNOWN_TOKEN_STRING",
        "spec.recipe.rules[0].weights.zyzzyva",
        "zyzzyva",
    ),
    (
        "token id outside the vocabulary",
        lambda c: c.generate("Hi", overrides=[{"rule": "logit_bias", "ids": {"123456": 1}}]),
        InvalidRequest,
        "UNKNOWN_TOKEN_ID",
        "spec.recipe.rules[0].ids['123456']",
        "123456",
    ),
    (
        "contradictory rules",
        lambda c: c.generate(
            "Hi",
            recipe={
                "rules": [{"rule": "min_tokens", "value": 9}, {"rule": "max_tokens", "value": 3}]
            },
        ),
        InvalidRequest,
        "RULE_CONFLICT",
        "spec.inline_recipe.rules[0]",
        "min_tokens",
    ),
    (
        "min_tokens over the request's max_tokens",
        lambda c: c.generate(
            "Hi", max_tokens=3, recipe={"rules": [{"rule": "min_tokens", "value": 9}]}
        ),
        InvalidRequest,
        "RULE_CONFLICT",
        "spec.max_tokens",
        "min_tokens",
    ),
    (
        "get an unknown recipe",
        lambda c: c.recipe("plane"),
        NotFound,
        "UNKNOWN_RECIPE",
        "name",
        "'plain'",
    ),
    (
        "get a recipe without a name",
        lambda c: c.recipe(""),
        InvalidRequest,
        "MISSING_FIELD",
        "name",
        "",
    ),
    (
        "validate a wrong recipe",
        lambda c: c.validate({"rules": [{"rule": "eos_ramp", "weight": "heavy", "over": 5}]}),
        InvalidRequest,
        "INVALID_RECIPE",
        "recipe.rules[0].weight",
        "",
    ),
    (
        "validate a text that is no YAML",
        lambda c: c.validate("a: ["),
        InvalidRequest,
        "INVALID_RECIPE",
        "document",
        "line 1",
    ),
    (
        "keep a text that is no recipe",
        lambda c: c.create_recipe("[1]"),
        InvalidRequest,
        "INVALID_RECIPE",
        "document",
        "mapping",
    ),
    (
        "keep no text at all",
        lambda c: c.create_recipe(""),
        InvalidRequest,
        "MISSING_FIELD",
        "recipe",
        "document",
    ),
    (
        "more overrides than rules a recipe may have",
        lambda c: c.generate("Hi", overrides=[{"rule": "top_k", "k": 1}] * 65),
        InvalidRequest,
        "INVALID_REQUEST",
        "spec.overrides",
        "64",
    ),
    (
        "more rules than a recipe may have",
        lambda c: c.generate("Hi", recipe={"rules": [{"rule": "top_k", "k": 1}] * 65}),
        InvalidRequest,
        "INVALID_REQUEST",
        "spec.inline_recipe.rules",
        "64",
    ),
    (
        "a recipe larger than a document may be",
        lambda c: c.generate("Hi", recipe={"description": "x" * 300_000}),
        InvalidRequest,
        "INVALID_REQUEST",
        "spec.inline_recipe",
        "262144",
    ),
    (
        "a recipe to validate larger than a document may be",
        lambda c: c.validate({"description": "x" * 300_000}),
        InvalidRequest,
        "INVALID_REQUEST",
        "recipe",
        "262144",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_wrong_recipe_is_refused_by_name(client: Client, case: Refusal) -> None:
    check_refused(client, case)
