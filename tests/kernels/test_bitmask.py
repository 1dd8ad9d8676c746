"""Packed masks against plain booleans, and what may not lift them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.oracle import Array

from bosal_kernels import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    LegalTokens,
    SlotParams,
    SlotState,
    TokenFlag,
    TouchedTokens,
    control,
    select,
)

VOCAB = 70


def packed(legal: Array) -> torch.Tensor:
    """Pack booleans [R, V] as the words of a mask."""
    width = -(-legal.shape[1] // 32) * 32
    padded = np.pad(legal, ((0, 0), (0, width - legal.shape[1])))
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int32))


def state_of(params: SlotParams, touched: TouchedTokens | None = None) -> SlotState:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    for slot in range(2):
        state.admit(slot, params, touched or TouchedTokens.of())
    return state


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.01, 0.5, 0.99]))
@settings(max_examples=30)
def test_what_is_not_legal_becomes_minus_infinity_and_the_rest_stays(
    seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 200))
    logits = rng.standard_normal((5, size)).astype(np.float32)
    places = rng.permutation(5)[: int(rng.integers(1, 6))]
    legal = rng.random((len(places), size)) < share
    expected = logits.copy()
    expected[places] = np.where(legal, logits[places], -np.inf)
    given_rows = torch.from_numpy(logits)
    LegalTokens(torch.from_numpy(places), packed(legal)).forbid(given_rows)
    assert np.array_equal(given_rows.numpy(), expected)


@pytest.mark.parametrize("num_legal", [3, 100, 197])
def test_what_is_no_number_stays_visible_behind_the_mask(num_legal: int) -> None:
    legal = np.arange(200)[None] < num_legal
    row = torch.zeros(1, 200)
    row[0, 198], row[0, 199] = torch.nan, torch.inf
    LegalTokens(torch.tensor([0]), packed(legal)).forbid(row)
    assert torch.equal(row[0, :198] == 0, torch.from_numpy(legal[0, :198]))
    assert row[0, 198:].isnan().all()


def test_no_rule_lifts_the_mask_and_the_others_yield_to_it() -> None:
    touched = TouchedTokens.of(
        [0, 69, 3], [0.0, 0.0, 50.0], [TokenFlag.EOS, TokenFlag.BANNED, TokenFlag.NONE]
    )
    state = state_of(SlotParams(key=1, min_tokens=5), touched)
    legal = np.zeros((2, VOCAB), bool)
    legal[0, [0, 69]] = True  # the end is too early, the other is banned
    legal[1, [69]] = True
    logits = torch.zeros(2, VOCAB)
    slots = torch.tensor([0, 1])
    controlled = control(logits, state, slots, LegalTokens(slots, packed(legal)))
    assert controlled.yielded.tolist() == [YIELDED_MIN_TOKENS, YIELDED_BANS]
    assert select(controlled, state, slots).tokens.tolist() == [0, 69]
    assert torch.isneginf(controlled.logits[:, 1:69]).all()


def test_a_neighbours_edits_lift_nothing_from_a_row_that_no_rule_edits() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    state.admit(0, SlotParams(key=1), TouchedTokens.of([0, 69], [3.0, 1.0]))
    state.admit(1, SlotParams(key=1), TouchedTokens.of())
    slots = torch.tensor([0, 1])
    legal = np.zeros((1, VOCAB), bool)
    legal[0, 5] = True
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(1))
    mask = LegalTokens(torch.tensor([1]), packed(legal))
    controlled = control(logits.clone(), state, slots, mask)
    # Token 0 is what the padding of the shorter list of edits names.
    assert torch.isfinite(controlled.logits[1]).nonzero().squeeze(1).tolist() == [5]
    assert controlled.logits[1, 5] == logits[1, 5]
    assert select(controlled, state, slots).tokens[1] == 5


def test_a_mask_with_no_bit_draws_nothing() -> None:
    state = state_of(SlotParams(key=1))
    slots = torch.tensor([0, 1])
    legal = np.zeros((1, VOCAB), bool)
    rows = torch.tensor([1])
    controlled = control(torch.zeros(2, VOCAB), state, slots, LegalTokens(rows, packed(legal)))
    tokens = select(controlled, state, slots).tokens.tolist()
    assert tokens[1] == -1
    assert tokens[0] >= 0


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 200])
def test_single_tokens_are_looked_up_in_their_own_row(size: int) -> None:
    rng = np.random.default_rng(size)
    legal = rng.random((2, size)) < 0.5
    tokens = torch.from_numpy(rng.integers(0, size, (4, 9)))
    mask = LegalTokens(torch.tensor([3, 1]), packed(legal))
    found = mask.illegal(tokens).numpy()
    assert not found[[0, 2]].any()
    assert np.array_equal(found[3], ~legal[0][tokens[3].numpy()])
    assert np.array_equal(found[1], ~legal[1][tokens[1].numpy()])
