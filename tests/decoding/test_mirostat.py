"""Mirostat's limit over many steps against its recurrence in float64."""

import numpy as np
import pytest
from tests.decoding.test_rules import random_row

from bosal_decoding.compile import compile
from bosal_decoding.errors import RuleConflict
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary

TAU, ETA, HEAT = 2.5, 0.3, 0.8
RULES = [
    {"rule": "temperature", "value": HEAT},
    {"rule": "top_k", "k": 60},
    {"rule": "mirostat", "tau": TAU, "eta": ETA},
]


def step(pipeline: Pipeline, seed: int, size: int, *, neighbour: bool) -> int:
    slots = [0, 1] if neighbour else [1]
    logits = random_row(seed, size)[None].repeat(len(slots), 1)
    token = pipeline.sample(pipeline.apply(logits, slots)).tokens.tolist()
    pipeline.slots.commit(slots, [[one] for one in token])
    return int(token[-1])


def test_the_limit_follows_what_is_drawn(vocabulary: Vocabulary) -> None:
    plan = compile(Recipe.parse({"rules": RULES}), vocabulary, context_tokens=512)
    pipeline = Pipeline(vocabulary.size, 2)
    for slot in range(2):
        pipeline.slots.add(slot, plan, history=[], seed=slot, choice=0)
    limit, limits, tokens, sizes = 2 * TAU, [2 * TAU], [], []
    for at in range(60):
        z = random_row(at, vocabulary.size).double().numpy() / HEAT
        order = np.lexsort((np.arange(len(z)), -z))[:60]
        p = np.exp(z[order] - z.max())
        p /= p.sum()
        count = max(1, int((-np.log2(p) <= limit).sum()))
        left = p[:count] / p[:count].sum()
        token = step(pipeline, at, vocabulary.size, neighbour=True)
        assert token in order[:count]
        surprise = -np.log2(left[list(order).index(token)])
        limit -= ETA * (surprise - TAU)
        sizes.append(count)
        limits.append(limit)
        tokens.append(token)
    assert min(sizes) < 30 < max(sizes)
    assert abs(np.mean(np.diff(limits))) < 0.1

    # Going back finds the limit of that position; a token that was not drawn leaves it.
    pipeline.slots.rollback(1, 25)
    again = [step(pipeline, at, vocabulary.size, neighbour=False) for at in range(35, 60)]
    assert again == tokens[35:]
    pipeline.slots.rollback(1, 10)
    pipeline.slots.commit([1], [[3, 4]])
    pipeline.slots.rollback(1, 2)
    assert [step(pipeline, at, vocabulary.size, neighbour=False) for at in (50, 51)] == [
        *tokens[50:52]
    ]


def test_a_token_that_alone_is_legal_leaves_the_limit(vocabulary: Vocabulary) -> None:
    """It is drawn from nothing, be it dictated or committed at once."""
    allowed = {"rule": "allowed_tokens", "ids": [70], "allow_end": False, "scope": {"first": 4}}
    plans = [
        compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
        for rules in (RULES, [allowed, *RULES])
    ]
    pipeline = Pipeline(vocabulary.size, 2)
    for slot, plan in enumerate(plans):
        pipeline.slots.add(slot, plan, history=[], seed=5, choice=0)
    pipeline.slots.commit([0], [[70] * 4])
    for at in range(4):
        logits = random_row(at, vocabulary.size)[None]
        token = pipeline.sample(pipeline.apply(logits, [1])).tokens.tolist()
        assert token == [70]
        pipeline.slots.commit([1], [token])
    for at in range(12):
        logits = random_row(at, vocabulary.size)[None].repeat(2, 1)
        first, second = pipeline.sample(pipeline.apply(logits, [0, 1])).tokens.tolist()
        assert first == second
        pipeline.slots.commit([0, 1], [[first], [second]])
    limits = pipeline.slots.surprise.limits([0, 1])
    assert limits is not None
    assert limits[0] == limits[1] != 2 * TAU


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (RULES[::-1], ("mirostat", "top_k")),
        (
            [RULES[0], {"rule": "dynamic_temperature", "low": 0.5, "high": 1}],
            ("dynamic_temperature", "temperature"),
        ),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(
    vocabulary: Vocabulary, rules: list[dict[str, object]], names: tuple[str, str]
) -> None:
    with pytest.raises(RuleConflict) as caught:
        compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    assert caught.value.metadata == {"first": names[0], "second": names[1]}
    assert caught.value.field == "rules[1]"


def test_scopes_can_part_two_temperatures(vocabulary: Vocabulary) -> None:
    rules = [
        {"rule": "temperature", "value": 0.5, "scope": {"first": 4}},
        {"rule": "dynamic_temperature", "low": 0.5, "high": 2, "scope": {"after": 4}},
    ]
    compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
