"""The batch state: mixed rows follow their formulas, and going back leaves no trace."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.decoding.oracle import Choice, controlled, scores
from tests.decoding.test_rules import OFF, PARAMS, TOLERANCE, check_token, random_row
from tests.decoding.test_scope import GATES, SCOPES, holds
from torch import Tensor

from bosal_decoding.compile import compile
from bosal_decoding.errors import VocabularyMismatch
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary

SLOW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def plan_of(vocabulary: Vocabulary, document: dict[str, Any]) -> Plan:
    return compile(Recipe.parse(document), vocabulary, context_tokens=4096)


def add(pipeline: Pipeline, slot: int, vocabulary: Vocabulary, choice: Choice) -> None:
    pipeline.slots.add(
        slot,
        plan_of(vocabulary, choice.document),
        history=choice.instruction,
        seed=choice.seed,
        choice=choice.choice,
    )
    pipeline.slots.commit([slot], [choice.output])


def rows(seed: int, count: int, size: int) -> Tensor:
    return torch.stack([random_row(seed * 101 + row, size) for row in range(count)])


# Some of few, so that they repeat.
TOKENS = st.lists(st.integers(0, 299) | st.integers(20, 22), max_size=8)


# Sets of allowed tokens can leave nothing, and then rules yield.
NAMES = sorted(name for name in PARAMS if not name.startswith("allowed"))


def choice_of(draw: Callable[[Any], Any], names: list[str]) -> Choice:
    """A choice with some of these rules, each of them on, off or under a scope."""
    rules: list[dict[str, Any]] = []
    for name in names:
        how = draw(st.sampled_from(["absent", "off", "on", "on"]))
        if how == "absent":
            continue
        rule = {"rule": name, **draw(PARAMS[name])}
        if how == "off":
            rule |= draw(st.sampled_from(OFF.get(name, [{}])))
        if draw(st.integers(0, 3)) == 0:
            rule["scope"] = draw(SCOPES)
        if draw(st.integers(0, 5)) == 0:
            rule["when"] = draw(GATES)
        rules.append(rule)
    return Choice(
        document={"rules": rules},
        token_bytes=(),
        eos=[0],
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        choice=draw(st.integers(0, 3)),
        instruction=draw(TOKENS),
        output=draw(TOKENS),
    )


@st.composite
def rule_names(draw: Callable[[Any], Any], among: list[str]) -> list[str]:
    names: list[str] = draw(st.lists(st.sampled_from(among), unique=True, min_size=1, max_size=6))
    if "temperature" in names and "dynamic_temperature" in names:
        names.remove("temperature")
    # Comes last in any chain.
    return sorted(names, key=lambda name: name == "mirostat")


@st.composite
def choices(draw: Callable[[Any], Any]) -> Choice:
    return choice_of(draw, draw(rule_names(NAMES)))


@st.composite
def crowds(draw: Callable[[Any], Any], among: list[str] = NAMES) -> list[Choice]:
    """Choices of the same few rules, so that what is off in one is on in its neighbour."""
    names = draw(rule_names(among))
    return [choice_of(draw, names) for _ in range(draw(st.integers(2, 4)))]


def acting(choice: Choice, logits: Tensor) -> Choice:
    """The choice with the rules alone that are in force over a row."""
    length = len(choice.output)
    rules = [
        {name: value for name, value in rule.items() if name not in ("scope", "when")}
        for rule in choice.rules
        if holds(logits, length, rule.get("scope", {}), rule.get("when", {}))
    ]
    return replace(choice, document={"rules": rules})


@SLOW
@given(
    mixed=crowds(),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 99),
)
def test_a_mixed_batch_follows_the_formulas_row_by_row(
    vocabulary: Vocabulary, mixed: list[Choice], order: Any, seed: int
) -> None:
    pipeline = Pipeline(vocabulary.size, 6)
    slots = order.sample(range(6), len(mixed))
    for slot, choice in zip(slots, mixed, strict=True):
        choice.token_bytes = vocabulary.token_bytes
        add(pipeline, slot, vocabulary, choice)
    for step in range(3):
        logits = rows(seed + step, len(mixed), vocabulary.size)
        state = pipeline.apply(logits.clone(), slots)
        tokens = pipeline.sample(state).tokens.tolist()
        for index, choice in enumerate(mixed):
            now = acting(choice, logits[index])
            expected = controlled(logits[index].double().numpy(), now)
            row = state.logits[index].double().numpy()
            np.testing.assert_allclose(row, expected, atol=TOLERANCE, rtol=1e-5)
            # The oracle knows mirostat before its first draw; test_mirostat.py follows it further.
            if step == 0 or all(rule["rule"] != "mirostat" for rule in choice.rules):
                check_token(tokens[index], scores(row, now))
            choice.output.append(tokens[index])
        pipeline.slots.commit(slots, [[token] for token in tokens])


def one_step(pipeline: Pipeline, slots: list[int], logits: Tensor) -> tuple[Tensor, list[int]]:
    state = pipeline.apply(logits.clone(), slots)
    return state.logits, pipeline.sample(state).tokens.tolist()


@SLOW
@given(choice=choices(), detours=st.lists(TOKENS, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_rolling_back_equals_never_having_been_there(
    vocabulary: Vocabulary, choice: Choice, detours: list[list[int]], seed: int
) -> None:
    winding, straight = Pipeline(vocabulary.size, 2), Pipeline(vocabulary.size, 2)
    add(winding, 1, vocabulary, choice)
    add(straight, 1, vocabulary, choice)
    for step, detour in enumerate(detours):
        winding.slots.commit([1], [detour])
        winding.slots.rollback(1, len(detour))
        logits = rows(seed + step, 1, vocabulary.size)
        expected_row, expected = one_step(straight, [1], logits)
        row, tokens = one_step(winding, [1], logits)
        assert torch.equal(row, expected_row)
        assert tokens == expected
        for pipeline in (winding, straight):
            pipeline.slots.commit([1], [tokens])
    assert winding.slots.output(1) == straight.slots.output(1)


@SLOW
@given(choice=choices(), tail=TOKENS, cut=st.integers(0, 8), seed=st.integers(0, 99))
def test_a_rollback_equals_a_fresh_replay_of_what_is_left(
    vocabulary: Vocabulary, choice: Choice, tail: list[int], cut: int, seed: int
) -> None:
    pipeline, fresh = Pipeline(vocabulary.size, 1), Pipeline(vocabulary.size, 1)
    add(pipeline, 0, vocabulary, choice)
    pipeline.slots.commit([0], [tail])
    whole = choice.output + tail
    cut = min(cut, len(whole))
    pipeline.slots.rollback(0, cut)
    choice.output = whole[: len(whole) - cut]
    add(fresh, 0, vocabulary, choice)
    logits = rows(seed, 1, vocabulary.size)
    row, tokens = one_step(pipeline, [0], logits)
    expected_row, expected = one_step(fresh, [0], logits)
    assert torch.equal(row, expected_row)
    assert tokens == expected


@SLOW
@given(
    mixed=crowds(),
    tails=st.lists(TOKENS, min_size=4, max_size=4),
)
def test_a_list_of_tokens_commits_like_its_tokens_one_by_one(
    vocabulary: Vocabulary, mixed: list[Choice], tails: list[list[int]]
) -> None:
    together, alone = Pipeline(vocabulary.size, 4), Pipeline(vocabulary.size, 4)
    slots = list(range(len(mixed)))
    for slot, choice in enumerate(mixed):
        add(together, slot, vocabulary, choice)
        add(alone, slot, vocabulary, choice)
    together.slots.commit(slots, tails[: len(mixed)])
    for slot, tail in zip(slots, tails, strict=False):
        for token in tail:
            alone.slots.commit([slot], [[token]])
    logits = rows(3, len(mixed), vocabulary.size)
    row, tokens = one_step(together, slots, logits)
    expected_row, expected = one_step(alone, slots, logits)
    assert torch.equal(row, expected_row)
    assert tokens == expected


@SLOW
@given(mixed=crowds(sorted(PARAMS)), seed=st.integers(0, 99))
def test_neighbours_slot_and_batch_order_change_nothing(
    vocabulary: Vocabulary, mixed: list[Choice], seed: int
) -> None:
    crowd, alone = Pipeline(vocabulary.size, 5), Pipeline(vocabulary.size, 1)
    logits = rows(seed, len(mixed), vocabulary.size)
    slots = [4 - index for index in range(len(mixed))]
    for slot, choice in zip(slots, mixed, strict=True):
        add(crowd, slot, vocabulary, choice)
    crowd_rows, crowd_tokens = one_step(crowd, slots, logits)
    for index, choice in enumerate(mixed):
        # The slot still holds the choice before; adding resets it.
        add(alone, 0, vocabulary, choice)
        row, tokens = one_step(alone, [0], logits[index : index + 1])
        assert torch.equal(row[0], crowd_rows[index])
        assert tokens == [crowd_tokens[index]]


@pytest.mark.parametrize("padding", [torch.inf, torch.nan, 1000.0])
def test_padding_of_the_head_is_never_emitted(vocabulary: Vocabulary, padding: float) -> None:
    size = vocabulary.size + 37
    pipeline = Pipeline(size, 2)
    for slot, value in enumerate((0, 5)):
        document = {"rules": [{"rule": "temperature", "value": value}]}
        pipeline.slots.add(
            slot, plan_of(vocabulary, document), history=[], seed=slot, choice=0, logprobs=3
        )
    logits = rows(1, 2, size)
    logits[:, vocabulary.size :] = padding
    for step in range(40):
        selection = pipeline.sample(pipeline.apply(logits.clone(), [0, 1]))
        tokens = selection.tokens
        assert not bool(selection.invalid.any())
        assert bool(((tokens >= 0) & (tokens < vocabulary.size)).all())
        assert selection.logprobs is not None
        assert int(selection.logprobs.top_raw.ids.max()) < vocabulary.size
        pipeline.slots.commit([0, 1], [[token] for token in tokens.tolist()])
        logits[:, : vocabulary.size] = rows(step, 2, vocabulary.size)


def test_a_head_smaller_than_the_vocabulary_is_refused(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size - 1, 1)
    with pytest.raises(VocabularyMismatch) as caught:
        pipeline.slots.add(0, plan_of(vocabulary, {}), history=[], seed=0, choice=0)
    assert caught.value.metadata["rows"] == str(vocabulary.size - 1)


def test_choices_of_one_seed_differ_and_repeat(vocabulary: Vocabulary) -> None:
    def draw(choice: int) -> list[int]:
        pipeline = Pipeline(vocabulary.size, 1)
        pipeline.slots.add(0, plan_of(vocabulary, {}), history=[], seed=7, choice=choice)
        for step in range(8):
            _, tokens = one_step(pipeline, [0], rows(step, 1, vocabulary.size))
            pipeline.slots.commit([0], [tokens])
        return list(pipeline.slots.output(0))

    texts = [draw(choice) for choice in range(4)]
    assert len({tuple(text) for text in texts}) == 4
    assert texts == [draw(choice) for choice in range(4)]


def greedy(vocabulary: Vocabulary, *rules: dict[str, Any]) -> Plan:
    return plan_of(vocabulary, {"rules": [*rules, {"rule": "temperature", "value": 0}]})


def test_a_row_of_nan_fails_alone(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size, 2)
    for slot in (0, 1):
        pipeline.slots.add(slot, greedy(vocabulary), history=[], seed=0, choice=0)
    logits = rows(5, 2, vocabulary.size)
    logits[0, 3] = torch.nan
    best = int(logits[1].argmax())
    selection = pipeline.sample(pipeline.apply(logits, [0, 1]))
    assert selection.invalid.tolist() == [True, False]
    assert selection.tokens.tolist() == [-1, best]


@given(seed=st.integers(0, 200))
@settings(max_examples=20)
def test_log_probabilities_come_raw_and_controlled(vocabulary: Vocabulary, seed: int) -> None:
    document = {
        "rules": [
            {"rule": "logit_bias", "ids": {"5": 4, "6": -4}},
            {"rule": "temperature", "value": 0.5},
            {"rule": "top_k", "k": 3},
        ]
    }
    pipeline = Pipeline(vocabulary.size, 2)
    plan = plan_of(vocabulary, document)
    pipeline.slots.add(0, plan, history=[], seed=seed, choice=0)
    pipeline.slots.add(1, plan, history=[], seed=seed, choice=1, logprobs=4)
    logits = rows(seed, 2, vocabulary.size)
    raw = torch.log_softmax(logits[1].double(), 0)
    edited = logits[1].double()
    edited[5] += 4
    edited[6] -= 4
    final = torch.log_softmax(edited / 0.5, 0)
    selection = pipeline.sample(pipeline.apply(logits.clone(), [0, 1]))
    token = int(selection.tokens[1])
    found = selection.logprobs
    assert found is not None
    assert found.rows.tolist() == [1]
    assert float(found.raw_logprob[0]) == pytest.approx(float(raw[token]), abs=1e-5)
    assert float(found.controlled_logprob[0]) == pytest.approx(float(final[token]), abs=1e-5)
    assert int(found.raw_rank[0]) == 1 + int((logits[1] > logits[1, token]).sum())
    assert int(found.controlled_rank[0]) == 1 + int((edited > edited[token]).sum())
    for top, row in ((found.top_raw, raw), (found.top_controlled, final)):
        assert top.ids[0].tolist() == row.argsort(descending=True, stable=True)[:4].tolist()
        expected = row.sort(descending=True).values[:4]
        torch.testing.assert_close(top.logprobs[0].double(), expected, atol=1e-5, rtol=0)


def test_rolling_back_too_far_is_an_error(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan_of(vocabulary, {}), history=[], seed=0, choice=0)
    pipeline.slots.commit([0], [[3]])
    with pytest.raises(ValueError, match="cannot take back 2 of 1"):
        pipeline.slots.rollback(0, 2)


def test_one_stream_per_group_is_combined_as_it_is(vocabulary: Vocabulary) -> None:
    pipeline = Pipeline(vocabulary.size, 3)
    for slot in range(3):
        pipeline.slots.add(slot, plan_of(vocabulary, {}), history=[], seed=0, choice=0)
    logits = rows(1, 3, vocabulary.size)
    assert pipeline.combine(logits, [0, 1, 2]).rows is logits
    with pytest.raises(ValueError, match="3 rows for groups of"):
        pipeline.combine(logits, [0, 1])
