"""Explanations against the step contract in float64, run again with each rule removed."""

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.decoding.oracle import Choice, controlled, kept, scores
from tests.decoding.test_pipeline import acting, choices, crowds, plan_of
from tests.decoding.test_rules import TOLERANCE, check_token

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.explanation import Explanation, ExplanationSummary, RuleEffect, Shift
from bosal_decoding.rules import RULES, RuleStage
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import SlotState

# Not shrunk: every example runs the oracle once per rule.
SLOW = settings(
    max_examples=20,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def rows(seed: int, count: int, size: int) -> torch.Tensor:
    """Rows without ties: where float32 cuts as float64 does, the draws must be equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, size), generator=generator) * 3.0


def begin(pipeline: ExplainingPipeline, slot: int, vocabulary: Vocabulary, choice: Choice) -> None:
    plan = plan_of(vocabulary, choice.document)
    begun: dict[str, Any] = {
        "history": choice.instruction,
        "seed": choice.seed,
        "choice": choice.choice,
    }
    pipeline.slots.add(slot, plan, **begun)
    pipeline.explain(slot, Counterfactuals.of(plan), **begun)
    pipeline.slots.commit([slot], [choice.output])


def step(pipeline: ExplainingPipeline, slots: list[int], logits: torch.Tensor) -> list[Explanation]:
    """One explained step, committed."""
    state = pipeline.apply(logits.clone(), slots)
    tokens = pipeline.sample(state).tokens.tolist()
    explained = pipeline.explanations(logits.clone(), state, list(range(len(slots))), tokens)
    pipeline.slots.commit(slots, [[token] for token in tokens])
    return explained


def without(choice: Choice, rule: str) -> Choice:
    rules = [one for one in choice.rules if one["rule"] != rule]
    return replace(choice, document={"rules": rules})


def temperature(choice: Choice, shaped: np.ndarray[Any, Any]) -> float:
    return kept(shaped, choice)[1] or 1.0


def log_softmax(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = row - row.max()
    result: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum())
    return result


def check(one: Explanation, logits: torch.Tensor, choice: Choice) -> None:
    """Hold an explanation against a run in float64 with each rule removed in turn."""
    raw = logits.double().numpy()
    shaped = controlled(raw, choice)
    p, q = log_softmax(raw), log_softmax(shaped / temperature(choice, shaped))
    token = one.token
    check_token(token, scores(shaped, choice))
    assert one.raw_logprob == pytest.approx(p[token], abs=TOLERANCE)
    assert one.raw_rank == 1 + int((raw > raw[token]).sum())
    assert one.raw_argmax == int(raw.argmax())
    assert one.controlled_logprob == pytest.approx(q[token], abs=0.01, rel=1e-4)
    assert (
        one.controlled_rank == 1 + int((shaped > shaped[token] + TOLERANCE).sum())
        or (abs(shaped - shaped[token]) < TOLERANCE).sum() > 1
    )
    assert one.entropy == pytest.approx(-(np.exp(p) * p).sum(), abs=TOLERANCE)
    mass = np.exp(q)
    kl = (mass * (np.where(mass > 0, q, 0) - p)).sum()
    assert one.divergence == pytest.approx(kl, abs=TOLERANCE, rel=1e-3)
    bare = replace(choice, document={})
    check_token(one.uncontrolled_token, scores(raw, bare))
    other = one.uncontrolled_token
    effects = {effect.rule: effect for effect in one.effects}
    assert list(effects) == [rule["rule"] for rule in choice.rules if rule["rule"] in effects]
    nothing = RuleEffect(
        rule="",
        on_chosen=0.0,
        on_uncontrolled=0.0,
        masked_tokens=0,
        token_without=token if token != other else None,
        flips=False,
    )
    for rule in choice.rules:
        effect = effects.get(rule["rule"], nothing)
        removed = without(choice, rule["rule"])
        row = controlled(raw, removed)
        stage = RULES[rule["rule"]].stage
        assert effect.on_chosen == pytest.approx(
            shaped[token] - row[token], abs=2 * TOLERANCE, rel=1e-6
        )
        if np.isfinite(row[other]) or np.isfinite(shaped[other]):
            change = shaped[other] - row[other]
            assert effect.on_uncontrolled == pytest.approx(change, abs=2 * TOLERANCE, rel=1e-6)
        if stage is RuleStage.MASK:
            assert effect.masked_tokens == int((np.isfinite(row) & ~np.isfinite(shaped)).sum())
        else:
            assert effect.masked_tokens == 0
        if token == other:
            assert effect.token_without is None
            assert not effect.flips
        else:
            assert effect.token_without is not None
            check_token(effect.token_without, scores(row, removed))
            assert effect.flips == (effect.token_without == other)


@SLOW
@given(mixed=crowds(), seed=st.integers(0, 99))
def test_a_mixed_batch_is_explained_as_runs_without_each_rule_would_have_gone(
    vocabulary: Vocabulary, mixed: list[Choice], seed: int
) -> None:
    pipeline = ExplainingPipeline(vocabulary.size, 6)
    slots = [5 - index for index in range(len(mixed))]
    for slot, choice in zip(slots, mixed, strict=True):
        choice.token_bytes = vocabulary.token_bytes
        begin(pipeline, slot, vocabulary, choice)
    # The oracle knows mirostat at the beginning only.
    has_mirostat = any(rule["rule"] == "mirostat" for choice in mixed for rule in choice.rules)
    for turn in range(1 if has_mirostat else 3):
        logits = rows(seed + turn, len(mixed), vocabulary.size)
        for index, (one, choice) in enumerate(
            zip(step(pipeline, slots, logits), mixed, strict=True)
        ):
            check(one, logits[index], acting(choice, logits[index]))
            choice.output.append(one.token)


@SLOW
@given(choice=choices(), detour=st.lists(st.integers(20, 30), min_size=1, max_size=4))
def test_rolling_back_leaves_no_trace_in_an_explanation(
    vocabulary: Vocabulary, choice: Choice, detour: list[int]
) -> None:
    winding, straight = (ExplainingPipeline(vocabulary.size, 1) for _ in range(2))
    for pipeline in (winding, straight):
        begin(pipeline, 0, vocabulary, choice)
    winding.slots.commit([0], [detour])
    winding.slots.rollback(0, len(detour))
    logits = rows(3, 1, vocabulary.size)
    assert step(winding, [0], logits) == step(straight, [0], logits)


def test_neighbours_that_come_and_go_change_no_explanation(vocabulary: Vocabulary) -> None:
    rules = [
        {"rule": "no_repeat_ngram", "n": 2},
        {"rule": "presence_penalty", "value": 1.0},
        {"rule": "temperature", "value": 0.5},
        {"rule": "top_k", "k": 5},
    ]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], seed=7, output=[5, 6, 5])
    alone, crowd = (ExplainingPipeline(vocabulary.size, 12) for _ in range(2))
    begin(alone, 0, vocabulary, choice)
    begin(crowd, 0, vocabulary, choice)
    for slot in range(1, 12):
        logits = rows(slot, 1, vocabulary.size)
        # Each neighbour makes the shadows move to a larger place sooner or later.
        begin(crowd, slot, vocabulary, replace(choice, seed=slot))
        assert step(crowd, [0], logits) == step(alone, [0], logits)
        if slot % 3 == 0:
            crowd.slots.free(slot)


def test_room_for_more_is_made_in_one_pass_over_the_longest_output(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody waits for it; and what it took is given back once nobody is explained."""
    monkeypatch.setattr("bosal_decoding.shadows._KEPT_CAPACITY", 16)
    rules = [{"rule": "presence_penalty", "value": 1.0}, {"rule": "top_k", "k": 5}]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], seed=7, output=[5, 6] * 20)
    pipeline = ExplainingPipeline(vocabulary.size, 8)
    passes: list[int] = []
    advance = SlotState.advance

    def counted(state: SlotState, slots: Sequence[int], tokens: Sequence[int]) -> None:
        passes.append(len(slots))
        advance(state, slots, tokens)

    monkeypatch.setattr(SlotState, "advance", counted)
    for slot in range(8):
        passes.clear()
        begin(pipeline, slot, vocabulary, choice)
        # Once for the choice and its own shadows each, and once for those that move.
        assert len(passes) <= 3 * len(choice.output)
    held = weakref.ref(pipeline._shadows._slots.state)
    assert len(step(pipeline, list(range(8)), rows(1, 8, vocabulary.size))) == 8
    for slot in range(8):
        pipeline.slots.free(slot)
    gc.collect()
    assert held() is None
    begin(pipeline, 0, vocabulary, choice)
    assert len(step(pipeline, [0], rows(1, 1, vocabulary.size))) == 1


def test_a_ban_is_explained_by_the_rule_that_banned(vocabulary: Vocabulary) -> None:
    rules = [
        {"rule": "temperature", "value": 1.0},
        {"rule": "banned_strings", "values": ["the"]},
    ]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], seed=3)
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    begin(pipeline, 0, vocabulary, choice)
    logits = rows(1, 1, vocabulary.size)
    (first,) = step(pipeline, [0], logits)
    pipeline.slots.rollback(0, 1)
    pipeline.slots.ban(0, 0, first.token)
    (second,) = step(pipeline, [0], logits)
    assert second.token != first.token
    assert second.uncontrolled_token == first.token
    (effect,) = second.effects
    assert effect == RuleEffect(
        rule="banned_strings",
        on_chosen=0.0,
        on_uncontrolled=-math.inf,
        masked_tokens=1,
        token_without=first.token,
        flips=True,
    )
    pipeline.slots.rollback(0, 1)
    # The ban still holds: it was at this position.
    assert step(pipeline, [0], logits) == [second]


def test_mirostats_counterfactuals_know_what_the_choice_has_learned(
    vocabulary: Vocabulary,
) -> None:
    rules = [
        {"rule": "logit_bias", "ids": {str(token): 0.3 for token in range(40, 90)}},
        {"rule": "epsilon", "value": 1e-9},
        {"rule": "mirostat", "tau": 5.0, "eta": 0.9},
    ]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], seed=5)
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    begin(pipeline, 0, vocabulary, choice)
    changed = 0
    for turn in range(40):
        (one,) = step(pipeline, [0], rows(turn, 1, vocabulary.size) * 0.5)
        changed += not one.is_unchanged
        # It cuts nothing, so the draw without it is the draw.
        assert "epsilon" not in {effect.rule for effect in one.effects}
    assert changed > 5


def test_a_slot_that_is_given_away_is_not_explained_for_the_next_choice(
    vocabulary: Vocabulary,
) -> None:
    choice = Choice({"rules": []}, vocabulary.token_bytes, [0], seed=1)
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    begin(pipeline, 0, vocabulary, choice)
    pipeline.slots.add(0, plan_of(vocabulary, {}), history=[], seed=0, choice=0)
    assert not pipeline.is_explained(0)


def test_without_rules_nothing_is_changed(vocabulary: Vocabulary) -> None:
    choice = Choice({"rules": []}, vocabulary.token_bytes, [0], seed=1)
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    begin(pipeline, 0, vocabulary, choice)
    for turn in range(20):
        (one,) = step(pipeline, [0], rows(turn, 1, vocabulary.size))
        assert one.is_unchanged
        assert one.effects == ()
        assert one.divergence == pytest.approx(0, abs=1e-6)


def test_padding_of_the_head_counts_nowhere(vocabulary: Vocabulary) -> None:
    rules = [{"rule": "eos_ramp", "weight": 3.0, "over": 2}]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], output=[5])
    pipeline = ExplainingPipeline(vocabulary.size + 37, 1)
    begin(pipeline, 0, vocabulary, choice)
    logits = rows(2, 1, vocabulary.size + 37)
    logits[:, vocabulary.size :] = 1000.0
    (one,) = step(pipeline, [0], logits)
    check(one, logits[0, : vocabulary.size], choice)


@pytest.mark.parametrize(
    ("rank", "shift"),
    [
        (1, Shift.UNSHIFTED),
        (2, Shift.MARGINAL),
        (3, Shift.MARGINAL),
        (4, Shift.SHIFTED),
        (50_000, Shift.SHIFTED),
    ],
)
def test_shift_classes_follow_the_ranks_of_the_paper(rank: int, shift: Shift) -> None:
    assert Shift.of(rank) is shift


def test_a_summary_adds_up_explanations() -> None:
    def one(rank: int, token: int, *effects: RuleEffect) -> Explanation:
        return Explanation(
            token=token,
            raw_logprob=-1.0,
            raw_rank=rank,
            controlled_logprob=-1.0,
            controlled_rank=1,
            entropy=1.0,
            divergence=0.5 * rank,
            raw_argmax=9,
            uncontrolled_token=7,
            effects=effects,
        )

    ramp = RuleEffect(
        rule="eos_ramp",
        on_chosen=1.0,
        on_uncontrolled=0.0,
        masked_tokens=0,
        token_without=7,
        flips=True,
    )
    summary = ExplanationSummary()
    summary.add([one(1, 7), one(5, 8, ramp), one(3, 7, replace(ramp, flips=False))])
    assert summary.num_tokens == 3
    assert summary.num_changed == 1
    assert summary.shifted_share == pytest.approx(1 / 3)
    assert summary.mean_divergence == pytest.approx(1.5)
    assert summary.activations == {"eos_ramp": 2}
    assert summary.flips == {"eos_ramp": 1}


COLD = [{"rule": "temperature", "value": 0.5}]
AVERSE = [{"rule": "presence_penalty", "value": 2.0}]
LONG = [{"rule": "min_tokens", "value": 9}]


@pytest.mark.parametrize(
    ("rules", "others", "is_finite"),
    [
        (COLD, AVERSE, True),
        (AVERSE, COLD, True),
        ([], [], True),
        # What the other alone forbids has no finite distance from it.
        ([], LONG, False),
        (LONG, [], True),
    ],
)
def test_the_dose_against_another_recipe_is_a_divergence_on_the_same_row(
    vocabulary: Vocabulary, rules: list[Any], others: list[Any], is_finite: bool
) -> None:
    ours, theirs = (
        Choice({"rules": one}, vocabulary.token_bytes, [0], 3, 0, [5, 6], [7, 8])
        for one in (rules, others)
    )
    plan, other = (plan_of(vocabulary, one.document) for one in (ours, theirs))
    held = Counterfactuals.of(plan).against([Counterfactuals.of(other)])
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    begun: dict[str, Any] = {"history": ours.instruction, "seed": 3, "choice": 0}
    pipeline.slots.add(0, plan, **begun)
    pipeline.explain(0, held, **begun)
    pipeline.slots.commit([0], [ours.output])
    logits = rows(4, 1, vocabulary.size)
    (explained,) = step(pipeline, [0], logits)
    raw = logits[0].double().numpy()
    (p, q) = (
        log_softmax(shaped / temperature(one, shaped))
        for one, shaped in ((theirs, controlled(raw, theirs)), (ours, controlled(raw, ours)))
    )
    (draw,) = explained.others
    if not is_finite:
        assert draw.divergence == math.inf
        return
    is_open = q > -np.inf
    expected = float((np.exp(q[is_open]) * (q[is_open] - p[is_open])).sum())
    assert draw.divergence == pytest.approx(expected, abs=1e-5)


SURE = {"rule": "mirostat", "tau": 1.5, "eta": 0.9}


@pytest.mark.parametrize("neighbours", [[], [SURE]])
def test_what_another_recipe_has_learned_is_its_own(
    vocabulary: Vocabulary, neighbours: list[Any]
) -> None:
    ours = plan_of(vocabulary, {"rules": [{"rule": "temperature", "value": 1.5}]})
    theirs = plan_of(vocabulary, {"rules": [{"rule": "top_k", "k": 200}, SURE]})
    held = Counterfactuals.of(ours).against([Counterfactuals.of(theirs)])
    alone, crowd = (ExplainingPipeline(vocabulary.size, 17) for _ in range(2))
    begun: dict[str, Any] = {"history": [0], "seed": 3, "choice": 0}
    for pipeline in (alone, crowd):
        pipeline.slots.add(0, ours, **begun)
        pipeline.explain(0, held, **begun)
    found = []
    for turn in range(16):
        logits = rows(turn, 1, vocabulary.size) * 0.3
        # Each makes the shadows move to a larger place sooner or later.
        choice = Choice({"rules": neighbours}, vocabulary.token_bytes, [0], seed=turn)
        begin(crowd, turn + 1, vocabulary, choice)
        found.append((step(alone, [0], logits), step(crowd, [0], logits)))
    assert [mine for mine, _ in found] == [theirs for _, theirs in found]
    assert any("mirostat" in one.others[0].rules for (one,), _ in found)
