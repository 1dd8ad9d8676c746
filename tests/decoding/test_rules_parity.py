"""Rules against the processors of transformers, on rows where no token lies on a boundary."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    LogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    TopKLogitsWarper,
    TypicalLogitsWarper,
)

from bosal_decoding.compile import compile
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import SlotState, TouchedTokens, control
from bosal_kernels.groups import GroupedRows
from bosal_kernels.truncate import truncate
from bosal_kernels.truncation import Truncation

NO_IDS = torch.zeros(1, 0, dtype=torch.long)


def kept_ids(vocabulary: Vocabulary, rule: dict[str, Any], logits: torch.Tensor) -> list[int]:
    """What one rule leaves of a row [V]."""
    plan = compile(Recipe.parse({"rules": [rule]}), vocabulary, context_tokens=512)
    size = len(logits)
    state = SlotState(num_slots=1, vocab_size=size)
    state.admit(0, plan.params, TouchedTokens.of())
    slots = torch.tensor([0])
    controlled = control(logits[None].clone(), state, slots)
    assert controlled.group_max is not None
    rows = GroupedRows(controlled.logits, controlled.group_max)
    truncation = Truncation(
        rows,
        slots,
        row_max=controlled.row_max,
        first_token=controlled.first,
        key=state.key[slots],
        position=state.position[slots],
    )
    truncate(truncation, state.chain_stage, state.chain_value, state.chain_second)
    inside = truncation.intervals.contains(slots, torch.arange(size), controlled.logits[0])
    return [int(token) for token in inside.nonzero().squeeze(1)]


@pytest.mark.parametrize(
    ("rule", "warper"),
    [
        ({"rule": "top_k", "k": 17}, TopKLogitsWarper(17)),
        ({"rule": "min_p", "p": 0.03}, MinPLogitsWarper(0.03)),
        ({"rule": "typical", "p": 0.2}, TypicalLogitsWarper(0.2)),
        ({"rule": "typical", "p": 0.9}, TypicalLogitsWarper(0.9)),
        ({"rule": "epsilon", "value": 3e-4}, EpsilonLogitsWarper(3e-4)),
        ({"rule": "epsilon", "value": 0.9}, EpsilonLogitsWarper(0.9)),
        ({"rule": "eta", "value": 3e-4}, EtaLogitsWarper(3e-4)),
        ({"rule": "eta", "value": 0.1}, EtaLogitsWarper(0.1)),
    ],
)
@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_a_truncation_rule_keeps_what_transformers_keeps(
    vocabulary: Vocabulary, rule: dict[str, Any], warper: LogitsProcessor, scale: float
) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(vocabulary.size, generator=generator) * scale
        expected = warper(NO_IDS, logits[None].clone())[0]
        kept = (expected > -torch.inf).nonzero().squeeze(1).tolist()
        assert kept_ids(vocabulary, rule, logits) == kept


@pytest.mark.parametrize("length", [0, 3, 4, 9])
def test_the_length_decay_is_that_of_transformers(vocabulary: Vocabulary, length: int) -> None:
    instruction, output = [7, 8, 9], list(range(20, 20 + length))
    theirs = ExponentialDecayLengthPenalty((3, 1.2), sorted(vocabulary.eos_ids), len(instruction))
    rule = {"rule": "exponential_decay_length", "start": 3, "factor": 1.2}
    plan = compile(Recipe.parse({"rules": [rule]}), vocabulary, context_tokens=512)
    for seed in range(10):
        logits = torch.randn(1, vocabulary.size, generator=torch.Generator().manual_seed(seed))
        pipeline = Pipeline(vocabulary.size, 1)
        pipeline.slots.add(0, plan, history=instruction, seed=0, choice=0)
        pipeline.slots.commit([0], [output])
        controlled = pipeline.apply(logits.clone(), [0])
        expected = theirs(torch.tensor([instruction + output]), logits.clone())
        torch.testing.assert_close(controlled.logits, expected)


@settings(max_examples=60)
@given(
    n=st.integers(2, 4),
    instruction=st.lists(st.integers(20, 22), max_size=12),
    output=st.lists(st.integers(20, 22), max_size=12),
)
def test_what_would_repeat_is_what_transformers_masks(
    vocabulary: Vocabulary, n: int, instruction: list[int], output: list[int]
) -> None:
    rule = {"rule": "no_repeat_ngram", "n": n}
    plan = compile(Recipe.parse({"rules": [rule]}), vocabulary, context_tokens=512)
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=instruction, seed=0, choice=0)
    logits = torch.zeros(1, vocabulary.size)
    for length in range(len(output) + 1):
        history = torch.tensor([instruction + output[:length]], dtype=torch.long)
        expected = NoRepeatNGramLogitsProcessor(n)(history, logits)
        assert torch.equal(pipeline.apply(logits.clone(), [0]).logits, expected)
        pipeline.slots.commit([0], [output[length : length + 1]])
