"""A rule twice, under scopes that never meet: each keeps what it says, or both are refused.

What a rule writes into a plan without its scope holds for the other one too.
"""

from dataclasses import fields
from typing import Any, Final

import pytest

from bosal_decoding.errors import RuleConflict
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RULES, Draft, Rule, RuleStage
from bosal_decoding.vocabulary import Vocabulary

# Of every rule that takes a scope: what it is given, and another value for each of its parameters.
CHANGES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "eos_ramp": ({"weight": 1, "over": 9}, {"weight": 2, "over": 8, "after_sentence": True}),
    "exponential_decay_length": ({"start": 1, "factor": 1.1}, {"start": 2, "factor": 1.2}),
    "repetition_penalty": (
        {"value": 1.2},
        {"value": 1.3, "window": 5, "include_instruction": False},
    ),
    "presence_penalty": ({"value": 1}, {"value": 2, "window": 5, "include_instruction": True}),
    "frequency_penalty": ({"value": 1}, {"value": 2, "window": 5, "include_instruction": True}),
    "used_token_weight": ({"weight": 1}, {"weight": 2, "include_instruction": True}),
    "dry": (
        {"multiplier": 1},
        {"multiplier": 2, "base": 2, "allowed_length": 3, "window": 9, "breakers": ["."]},
    ),
    "token_weights": ({"weights": {"a": 1}}, {"weights": {"b": 2}, "if_missing": "skip"}),
    "logit_bias": ({"ids": {"7": 1}}, {"ids": {"8": 1}, "strings": {"a": 2}}),
    "allowed_tokens": (
        {"ids": [7]},
        {"ids": [8], "strings": ["a"], "allow_end": False, "if_missing": "skip"},
    ),
    "allowed_scripts": ({"scripts": ["Latin"]}, {"scripts": ["Greek"], "common": False}),
    "min_tokens": ({"value": 3}, {"value": 4}),
    "no_repeat_ngram": ({"n": 2}, {"n": 3}),
    "banned_strings": ({"values": ["a"]}, {"values": ["b"]}),
    "temperature": ({"value": 0.5}, {"value": 0.6}),
    "dynamic_temperature": ({"low": 0.1, "high": 1}, {"low": 0.2, "high": 2, "exponent": 2}),
    "top_k": ({"k": 2}, {"k": 3}),
    "top_p": ({"p": 0.5}, {"p": 0.6}),
    "min_p": ({"p": 0.05}, {"p": 0.06}),
    "typical": ({"p": 0.5}, {"p": 0.6}),
    "top_n_sigma": ({"n": 1}, {"n": 2}),
    "epsilon": ({"value": 0.001}, {"value": 0.002}),
    "eta": ({"value": 0.001}, {"value": 0.002}),
    "xtc": ({"probability": 0.5}, {"probability": 0.6, "threshold": 0.2}),
    "mirostat": ({}, {"tau": 4, "eta": 0.2}),
    "stop_regex": ({"pattern": "a"}, {"pattern": "b"}),
    "stop_turns": ({}, {}),
    "stop_loops": ({}, {"times": 5, "max_period": 32, "min_tokens": 30}),
    "stop_whitespace": ({"max_run": 4}, {"max_run": 5}),
    "max_sentences": ({"n": 1}, {"n": 2}),
    "max_paragraphs": ({"n": 1}, {"n": 2}),
    "token_budget": ({"tokens": 9}, {"tokens": 8, "grace": 3}),
    "stop_strings": ({"values": ["a"]}, {"values": ["b"]}),
}
# Only one of these may be in a recipe at all.
ALONE: Final = {name for name, rule in RULES.items() if rule.stage is RuleStage.COMBINE}
# What a choice has but one of: the penalty's set of used tokens, the repeats' breakers, the state
# that mirostat starts with.
ONE_OF: Final = {
    ("used_token_weight", "include_instruction"),
    ("dry", "breakers"),
    ("mirostat", "tau"),
}
# Where a rule's part is kept under its scope, or under its place in the recipe.
SCOPED: Final = {
    "scoped", "chain", "allowed", "stop_strings", "banned_strings", "watchers", "text_scopes",
    "plugins",
}  # fmt: skip
# Of the compilation itself.
OF_COMPILING: Final = {"vocabulary", "agreed", "notes", "index", "path", "scope", "token_ids"}


def drafted(vocabulary: Vocabulary, *rules: Rule) -> dict[str, Any]:
    """What rules write into a plan that holds whatever their scopes."""
    draft = Draft(vocabulary=vocabulary, turn_marks=("Q:",))
    for place, rule in enumerate(rules):
        scope = rule.kernel_scope(has_constraint=False)
        assert scope is not None
        draft.begin(place, scope)
        rule.contribute(draft)
    names = {field.name for field in fields(Draft)} - SCOPED - OF_COMPILING
    return {name: getattr(draft, name) for name in sorted(names)}


def ruled(name: str, params: dict[str, Any], scope: dict[str, int]) -> Rule:
    (rule,) = Recipe.parse({"rules": [{"rule": name, "scope": scope, **params}]}).rules
    return rule


def test_every_rule_that_takes_a_scope_is_tried() -> None:
    scopable = {name for name, rule in RULES.items() if rule.is_scopable}
    assert CHANGES.keys() == scopable - ALONE
    for name, (params, changes) in CHANGES.items():
        assert {*params, *changes} == RULES[name].model_fields.keys() - {"rule", "scope", "when"}


@pytest.mark.parametrize(
    ("name", "param"),
    [(name, param) for name, (_, changes) in CHANGES.items() for param in changes],
)
def test_what_differs_between_scopes_is_kept_apart_or_refused(
    vocabulary: Vocabulary, name: str, param: str
) -> None:
    params, changes = CHANGES[name]
    early = ruled(name, params, {"first": 4})
    late = ruled(name, params | {param: changes[param]}, {"after": 4})
    assert early.params() != late.params()
    if (name, param) in ONE_OF:
        with pytest.raises(RuleConflict) as conflict:
            drafted(vocabulary, early, late)
        assert conflict.value.field == f"rules[1].{param}"
        return
    both = drafted(vocabulary, early, late)
    assert both == drafted(vocabulary, early) == drafted(vocabulary, late)
