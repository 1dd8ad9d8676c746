"""Every rule under a scope: as without one where it holds, as if absent elsewhere."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.decoding.oracle import Choice
from tests.decoding.test_rules import PARAMS, TOKENS, random_row, run

from bosal_decoding.compile import compile
from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RULES
from bosal_decoding.vocabulary import Vocabulary

SCOPES = st.fixed_dictionaries(
    {}, optional={"first": st.integers(5, 9), "after": st.integers(0, 4)}
).filter(bool)
GATES = st.fixed_dictionaries({"entropy_above": st.floats(0, 6)}) | st.fixed_dictionaries(
    {"top1_below": st.floats(0.01, 1)}
)


def holds(row: torch.Tensor, length: int, scope: dict[str, Any], gate: dict[str, float]) -> bool:
    p = row.double().softmax(0)
    entropy = -float((p * p.clamp(min=1e-300).log()).sum())
    return (
        scope.get("after", 0) <= length < scope.get("first", 10**9)
        and float(p.max()) < gate.get("top1_below", 2)
        and entropy > gate.get("entropy_above", -1)
    )


@pytest.mark.parametrize("name", sorted(name for name in PARAMS if RULES[name].is_scopable))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(), seed=st.integers(0, 999), scope=SCOPES, gate=GATES | st.none(), output=TOKENS
)
def test_a_scoped_rule_acts_where_it_should(
    vocabulary: Vocabulary,
    name: str,
    data: st.DataObject,
    seed: int,
    scope: dict[str, Any],
    gate: dict[str, float] | None,
    output: list[int],
) -> None:
    rule = {"rule": name, **data.draw(PARAMS[name])}
    limited = {**rule, "scope": scope, **({"when": gate} if gate else {})}
    logits = random_row(seed, vocabulary.size)
    acts = holds(logits, len(output), scope, gate or {})

    def result(*rules: dict[str, Any]) -> tuple[list[float], int]:
        choice = Choice({"rules": list(rules)}, vocabulary.token_bytes, [0], seed=seed)
        choice.instruction, choice.output = [7, 8, 20], output
        row, token = run(vocabulary, choice, logits)
        return row.tolist(), token

    assert result(limited) == (result(rule) if acts else result())


def test_neighbours_with_other_scopes_change_nothing(vocabulary: Vocabulary) -> None:
    def plan(*rules: dict[str, Any]) -> Any:
        return compile(Recipe.parse({"rules": list(rules)}), vocabulary, context_tokens=512)

    bias = {"rule": "logit_bias", "ids": {"30": 4, "31": -4}}
    plans = [
        plan({**bias, "scope": {"first": 2}}, {"rule": "top_k", "k": 3, "scope": {"after": 1}}),
        plan(bias),
        plan({**bias, "when": {"top1_below": 0.5}}, {"rule": "min_tokens", "value": 4}),
        plan(),
    ]
    logits = torch.stack([random_row(seed, vocabulary.size) for seed in range(4)])

    def tokens(together: bool) -> list[list[int]]:
        drawn: list[list[int]] = [[] for _ in plans]
        batches = [[0, 1, 2, 3]] if together else [[slot] for slot in range(4)]
        for batch in batches:
            pipeline = Pipeline(vocabulary.size, 4)
            for slot in batch:
                pipeline.slots.add(slot, plans[slot], history=[5, 6], seed=slot, choice=0)
            for _ in range(5):
                picked = pipeline.sample(pipeline.apply(logits[batch].clone(), batch)).tokens
                pipeline.slots.commit(batch, [[token] for token in picked.tolist()])
                for slot, token in zip(batch, picked.tolist(), strict=True):
                    drawn[slot].append(token)
        return drawn

    assert tokens(together=True) == tokens(together=False)


def test_a_rule_may_occur_twice_with_disjoint_scopes(vocabulary: Vocabulary) -> None:
    twice = {
        "rules": [
            {"rule": "temperature", "value": 0, "scope": {"first": 2}},
            {"rule": "temperature", "value": 1.5, "scope": {"after": 2}},
        ]
    }
    recipe = Recipe.parse(twice)
    assert Recipe.parse(recipe.document()).version == recipe.version
    pipeline = Pipeline(vocabulary.size, 1)
    plan = compile(recipe, vocabulary, context_tokens=512)
    pipeline.slots.add(0, plan, history=[], seed=3, choice=0)
    row = random_row(5, vocabulary.size)[None]
    tokens = []
    for _ in range(6):
        token = pipeline.sample(pipeline.apply(row.clone(), [0])).tokens.tolist()
        pipeline.slots.commit([0], [token])
        tokens += token
    best = int(row.argmax())
    assert tokens[:2] == [best, best]
    assert tokens[2:] != [best] * 4
    with pytest.raises(InvalidRecipe, match="2 times") as caught:
        recipe.with_overrides([{"rule": "temperature", "value": 1}])
    assert caught.value.field == "overrides[0].rule"


@pytest.mark.parametrize(
    ("rules", "field", "message"),
    [
        (
            [
                {"rule": "top_k", "k": 3, "scope": {"first": 3}},
                {"rule": "top_k", "k": 4, "scope": {"after": 2}},
            ],
            "rules[1].rule",
            "disjoint",
        ),
        (
            [
                {"rule": "top_k", "k": 3, "when": {"top1_below": 0.5}},
                {"rule": "top_k", "k": 4, "when": {"entropy_above": 0.5}},
            ],
            "rules[1].rule",
            "disjoint",
        ),
        ([{"rule": "top_k", "k": 3, "scope": {"fist": 3}}], "rules[0].scope.fist", "'first'"),
        ([{"rule": "top_k", "k": 3, "scope": {"first": 0}}], "rules[0].scope.first", "greater"),
        ([{"rule": "top_k", "k": 3, "scope": "inside"}], "rules[0].scope.region", "inside_con"),
        (
            [{"rule": "top_k", "k": 3, "scope": {"first": 2, "after": 2}}],
            "rules[0].scope",
            "never holds",
        ),
        ([{"rule": "top_k", "k": 3, "when": {}}], "rules[0].when", "needs"),
        ([{"rule": "top_k", "k": 3, "when": {"top1_below": 2}}], "rules[0].when.top1_below", "1"),
        ([{"rule": "max_tokens", "value": 3, "scope": {}}], "rules[0].scope", "its own place"),
    ],
)
def test_a_wrong_scope_is_refused_by_name(
    rules: list[dict[str, Any]], field: str, message: str
) -> None:
    with pytest.raises(InvalidRecipe, match=message) as caught:
        Recipe.parse({"rules": rules})
    assert caught.value.field == field


def test_without_a_constraint_everything_is_outside(vocabulary: Vocabulary) -> None:
    rules = [
        {"rule": "repetition_penalty", "value": 1.5, "scope": "outside_constraint"},
        {"rule": "presence_penalty", "value": 1, "scope": "inside_constraint"},
    ]
    plan = compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    assert plan.params.repetition == 1.5
    assert (plan.params.presence, plan.params.scoped) == (0, ())
    assert plan.notes == ("rules[1]: never acts, for there is no constraint",)
