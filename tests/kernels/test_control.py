"""Control against one-line float64 formulas, and the rules that give way when nothing is left."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels import rows
from tests.kernels.oracle import Array

from bosal_kernels import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    YIELDED_REPEATS,
    Control,
    LegalTokens,
    Scope,
    ScopedValue,
    SlotParams,
    SlotState,
    Stage,
    TokenFlag,
    TouchedTokens,
    control,
    select,
)

VOCAB = 200
OUTPUT = [5, 5, 5, 7, 130, 64, 63, 7]
INSTRUCTION = [5, 8, 130, 199]
EOS = [0, 199]


def controlled(
    z: Array,
    *,
    touched: TouchedTokens | None = None,
    output: list[int] | None = None,
    bans: dict[int, list[int]] | None = None,
    key: int = 1,
    **params: Any,
) -> Control:
    """Control of one row in a batch of three; the neighbours have rules of their own."""
    state = SlotState(num_slots=4, vocab_size=len(z), touched_capacity=2)
    state.admit(2, SlotParams(key=key, **params), touched or TouchedTokens.of())
    noisy = TouchedTokens.of(range(len(z)), 3.0, TokenFlag.EOS)
    state.admit(0, SlotParams(key=2, repetition=1.5, min_tokens=9), noisy)
    state.admit(3, SlotParams(key=3, presence=2.0), TouchedTokens.of())
    for token in output or []:
        state.advance([2, 3], [token, 1 % len(z)])
    for position, tokens in (bans or {}).items():
        state.ban_at(2, position, tokens)
    logits = torch.from_numpy(np.stack([z, z, z]))
    return control(logits, state, torch.tensor([0, 2, 3]))


def row(result: Control) -> Array:
    return result.logits[1].numpy()


def counts(tokens: list[int]) -> Array:
    return np.bincount(tokens, minlength=VOCAB)


def flagged(tokens: list[int]) -> Array:
    return np.isin(np.arange(VOCAB), tokens)


@pytest.fixture(params=["wide", "bf16", "half_left", "high_offset"])
def z(request: pytest.FixtureRequest) -> Array:
    return rows.logits(request.param, VOCAB, 17)


def test_a_slot_without_rules_changes_no_bit(z: Array) -> None:
    assert np.array_equal(row(controlled(z, output=OUTPUT)), z)


def test_rows_that_nothing_edits_are_controlled_as_beside_one_that_is_edited(z: Array) -> None:
    nan, infinite, empty = z.copy(), z.copy(), np.full_like(z, -np.inf)
    nan[3], infinite[150] = np.nan, np.inf
    legal = LegalTokens(torch.tensor([1]), torch.tensor([[-1, 0, -1, 7, -1, -1, -1]]).int())
    found = []
    for touched in (TouchedTokens.of(), TouchedTokens.of([3], 2.0)):
        state = SlotState(num_slots=6, vocab_size=len(z))
        for slot in range(5):
            state.admit(slot, SlotParams(key=slot), TouchedTokens.of())
        state.admit(5, SlotParams(key=5), touched)
        assert state.is_editing == (len(touched.ids) > 0)
        logits = torch.from_numpy(np.stack([z, z, nan, infinite, empty]))
        found.append(control(logits, state, torch.arange(5), legal))
    ours, theirs = found
    for name in ("logits", "group_max", "row_max", "invalid", "yielded"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name), rtol=0, atol=0, equal_nan=True
        )
    assert ours.invalid.tolist() == [False, False, True, True, False]
    assert float(ours.row_max[4]) == -np.inf


def test_whoever_comes_to_edit_is_looked_at() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    state.admit(0, SlotParams(key=1), TouchedTokens.of())
    state.admit(1, SlotParams(key=1, presence=1.0), TouchedTokens.of())
    state.advance([1], [5])
    assert state.is_editing
    state.free(1)
    assert not state.is_editing
    state.ban_at(0, 0, [7])
    assert state.is_editing
    result = control(torch.zeros(1, VOCAB), state, torch.tensor([0]))
    assert float(result.logits[0, 7]) == -np.inf


def test_repetition_divides_or_multiplies_once_in_output_and_instruction(z: Array) -> None:
    touched = TouchedTokens.of(INSTRUCTION, flags=TokenFlag.IN_PROMPT)
    x, seen = z.astype(np.float64), flagged(OUTPUT + INSTRUCTION)
    wanted = np.where(seen, np.where(x > 0, x / 1.3, x * 1.3), x)
    got = row(controlled(z, touched=touched, output=OUTPUT, repetition=1.3))
    np.testing.assert_allclose(got, wanted, rtol=3e-7)
    assert np.array_equal(got[~seen], z[~seen])


def test_presence_and_frequency_count_the_output_only(z: Array) -> None:
    touched = TouchedTokens.of(INSTRUCTION, flags=TokenFlag.IN_PROMPT | TokenFlag.USED_AT_START)
    wanted = z.astype(np.float64) - 0.7 * (counts(OUTPUT) > 0) - 0.3 * counts(OUTPUT)
    got = row(controlled(z, touched=touched, output=OUTPUT, presence=0.7, frequency=0.3))
    np.testing.assert_allclose(got, wanted, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("name", ["repetition", "presence", "frequency"])
@pytest.mark.parametrize("ngram", [0, 3])
@pytest.mark.parametrize("is_scoped", [False, True])
def test_a_window_of_a_penalty_that_is_off_touches_nobody(
    name: str, is_scoped: bool, ngram: int
) -> None:
    """Beside rows whose penalty is on, before and behind them."""
    on, off = (2.0, 1.0) if name == "repetition" else (1.0, 0.0)
    windowed = {f"{name}_window": 5, f"{name}_instruction": 1 - (name == "repetition")}
    wanted = [{name: on}, {name: on, f"{name}_window": 2}]
    idle: dict[str, Any] = {name: off, **windowed}
    if is_scoped:
        scope = Scope(after=1)
        idle = {
            "scoped": tuple(ScopedValue(param=k, value=v, scope=scope) for k, v in idle.items())
        }
    # Which keeps what was said for its own sake.
    idle["ngram"] = ngram
    for params in ([idle, *wanted], [*wanted, idle], [wanted[0], idle, wanted[1], idle]):
        state = SlotState(num_slots=len(params), vocab_size=150)
        alone = [SlotState(num_slots=1, vocab_size=150) for _ in params]
        slots = list(range(len(params)))
        for slot, numbers in enumerate(params):
            for own, place in ((state, slot), (alone[slot], 0)):
                own.admit(
                    place, SlotParams(key=0, **numbers), TouchedTokens.of(), instruction=[1, 2]
                )
        for token in (7, 8, 9):
            state.advance(slots, [token] * len(slots))
            for own in alone:
                own.advance([0], [token])
        row = torch.linspace(-3, 3, 150).repeat(len(params), 1)
        together = control(row.clone(), state, torch.tensor(slots)).logits
        for slot, own in enumerate(alone):
            one = control(row[:1].clone(), own, torch.tensor([0])).logits[0]
            assert torch.equal(together[slot], one)
            assert torch.equal(one, row[0]) is (params[slot] is idle)


def test_used_tokens_get_their_weight_once(z: Array) -> None:
    touched = TouchedTokens.of(INSTRUCTION, flags=TokenFlag.USED_AT_START)
    wanted = z.astype(np.float64) - 1.5 * flagged(OUTPUT + INSTRUCTION)
    got = row(controlled(z, touched=touched, output=OUTPUT, used_weight=-1.5))
    np.testing.assert_allclose(got, wanted, rtol=3e-7, atol=1e-6)
    plain = TouchedTokens.of(INSTRUCTION, flags=TokenFlag.IN_PROMPT)
    got = row(controlled(z, touched=plain, output=OUTPUT, used_weight=-1.5))
    np.testing.assert_allclose(
        got, z.astype(np.float64) - 1.5 * flagged(OUTPUT), rtol=3e-7, atol=1e-6
    )


def test_deltas_are_added_and_repeated_tokens_sum_theirs(z: Array) -> None:
    touched = TouchedTokens.of([3, 9, 3], [1.5, -2.0, 0.25]).merge(TouchedTokens.of([9], [-1.0]))
    wanted = z.astype(np.float64) + 1.75 * flagged([3]) - 3.0 * flagged([9])
    np.testing.assert_allclose(row(controlled(z, touched=touched)), wanted, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_the_ramp_grows_with_the_output_and_is_clamped(z: Array, length: int) -> None:
    touched = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    ramp = 15.0 * min(length, 5) / 5
    got = row(
        controlled(
            z, touched=touched, output=OUTPUT[:length], eos_ramp_weight=15.0, eos_ramp_over=5
        )
    )
    wanted = z.astype(np.float64) + ramp * flagged(EOS)
    np.testing.assert_allclose(got, wanted, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("length", [0, 2, 3, 8])
def test_the_end_grows_by_a_power_of_the_output_beyond_the_start(z: Array, length: int) -> None:
    touched = TouchedTokens.of(EOS, 0.5, TokenFlag.EOS)
    got = row(
        controlled(
            z, touched=touched, output=OUTPUT[:length], eos_decay_start=2, eos_decay_factor=1.3
        )
    )
    x = z.astype(np.float64) + 0.5 * flagged(EOS)
    grows = flagged(EOS) & np.isfinite(x)
    x[grows] += np.abs(x[grows]) * (1.3 ** max(length - 2, 0) - 1)
    np.testing.assert_allclose(got, x, rtol=1e-6, atol=1e-6)


def test_no_output_is_so_long_that_the_end_grows_to_infinity() -> None:
    z = np.full(VOCAB, -3.0, dtype=np.float32)
    touched = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    result = controlled(
        z, touched=touched, output=[5] * 60, eos_decay_factor=1e9, eos_decay_start=0
    )
    assert row(result)[EOS].tolist() == pytest.approx([1e30, 1e30])
    assert choice(result) in [(0, 0), (199, 0)]


@pytest.mark.parametrize("length", [0, 2, 3, 8])
def test_min_tokens_masks_every_end_until_it_is_reached(z: Array, length: int) -> None:
    touched = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    got = row(controlled(z, touched=touched, output=OUTPUT[:length], min_tokens=3))
    wanted = np.where(flagged(EOS) & (length < 3), -np.inf, z)
    assert np.array_equal(got, wanted)


def test_bans_mask_whatever_was_added(z: Array) -> None:
    touched = TouchedTokens.of([3, 9], 50.0).merge(TouchedTokens.of([3], flags=TokenFlag.BANNED))
    got = row(controlled(z, touched=touched))
    assert got[3] == -np.inf
    assert np.array_equal(np.delete(got, [3, 9]), np.delete(z, [3, 9]))


def test_a_ban_holds_at_its_position_only(z: Array) -> None:
    bans = {2: [5, 11], 3: [12]}
    for length in range(5):
        got = row(controlled(z, output=OUTPUT[:length], bans=bans))
        wanted = np.where(flagged(bans.get(length, [])), -np.inf, z)
        assert np.array_equal(got, wanted)


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(rows.KINDS),
    output=st.lists(st.integers(0, VOCAB - 1), max_size=40),
    repetition=st.floats(0.5, 3),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    used=st.floats(-5, 5),
    ramp=st.floats(-20, 20),
)
@settings(max_examples=60)
def test_all_rules_together_follow_the_formula(
    seed: int,
    kind: str,
    output: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    used: float,
    ramp: float,
) -> None:
    rng = np.random.default_rng(seed)
    z = rows.logits(kind, VOCAB, seed)
    ids = rng.permutation(VOCAB)[: rng.integers(0, 60)].tolist()
    deltas = rng.normal(0, 3, len(ids))
    flags = rng.integers(0, 16, len(ids))
    got = row(
        controlled(
            z,
            touched=TouchedTokens.of(ids, deltas.tolist(), flags.tolist()),
            output=output,
            repetition=repetition,
            presence=presence,
            frequency=frequency,
            used_weight=used,
            eos_ramp_weight=ramp,
            eos_ramp_over=17,
            min_tokens=20,
        )
    )
    flag, delta = np.zeros(VOCAB, dtype=int), np.zeros(VOCAB)
    flag[ids], delta[ids] = flags, deltas
    count = counts(output)
    x = z.astype(np.float64)
    x = np.where((count > 0) | (flag & 4 > 0), np.where(x > 0, x / repetition, x * repetition), x)
    x = x - presence * (count > 0) - frequency * count + used * ((count > 0) | (flag & 8 > 0))
    x = x + delta + (flag & 1) * ramp * min(len(output), 17) / 17
    x[(flag & 2 > 0) | ((flag & 1 > 0) & (len(output) < 20))] = -np.inf
    if (x > -np.inf).any():
        np.testing.assert_allclose(got, x, rtol=1e-6, atol=2e-5)


def only(tokens: list[int]) -> Array:
    return np.where(flagged(tokens), 1.0, -np.inf).astype(np.float32)


def choice(result: Control) -> tuple[int, int]:
    state = SlotState(num_slots=4, vocab_size=VOCAB)
    selection = select(result, state, result.slots)
    return int(selection.tokens[1]), int(selection.yielded[1])


def test_min_tokens_yields_when_only_the_end_is_left() -> None:
    touched = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    result = controlled(only([199]), touched=touched, min_tokens=5)
    assert choice(result) == (199, YIELDED_MIN_TOKENS)


def test_bans_yield_when_only_banned_tokens_are_left() -> None:
    touched = TouchedTokens.of([7], -1.0, TokenFlag.BANNED)
    result = controlled(only([7]), touched=touched)
    assert choice(result) == (7, YIELDED_BANS)
    assert row(result)[7] == 0.0
    here = controlled(only([7]), bans={0: [7]})
    assert choice(here) == (7, YIELDED_BANS)


def test_min_tokens_yields_before_bans() -> None:
    touched = TouchedTokens.of([199], flags=TokenFlag.EOS).merge(
        TouchedTokens.of([7], flags=TokenFlag.BANNED)
    )
    result = controlled(only([7, 199]), touched=touched, min_tokens=5)
    assert choice(result) == (199, YIELDED_MIN_TOKENS)


def test_both_yield_when_the_end_itself_is_banned() -> None:
    touched = TouchedTokens.of([199], flags=TokenFlag.EOS | TokenFlag.BANNED)
    result = controlled(only([199]), touched=touched, min_tokens=5)
    assert choice(result) == (199, YIELDED_MIN_TOKENS | YIELDED_BANS)


def test_nothing_yields_where_something_is_left_or_nothing_would_help() -> None:
    touched = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    assert choice(controlled(only([3, 199]), touched=touched, min_tokens=5)) == (3, 0)
    banned = TouchedTokens.of([3], flags=TokenFlag.BANNED)
    assert choice(controlled(only([]), touched=banned)) == (-1, YIELDED_BANS)
    assert choice(controlled(only([]))) == (-1, 0)


def test_one_rows_conflict_leaves_its_neighbours_masked() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    ends = TouchedTokens.of(EOS, flags=TokenFlag.EOS)
    greedy = ((Stage.TEMPERATURE, 0.0, 0.0),)
    for slot in range(2):
        state.admit(slot, SlotParams(key=slot, min_tokens=2, chain=greedy), ends)
    slots = torch.arange(2)
    logits = torch.from_numpy(np.stack([only([199]), only([199, 50])]))
    selection = select(control(logits, state, slots), state, slots)
    assert selection.tokens.tolist() == [199, 50]
    assert selection.yielded.tolist() == [YIELDED_MIN_TOKENS, 0]


def test_logits_that_cannot_be_edited_in_place_are_refused() -> None:
    state = SlotState(num_slots=1, vocab_size=10)
    slots = torch.tensor([0])
    with pytest.raises(ValueError, match="float32"):
        control(torch.zeros(1, 10, dtype=torch.float64), state, slots)
    with pytest.raises(ValueError, match="contiguous"):
        control(torch.zeros(2, 20)[:, ::2], state, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="rows of 11"):
        control(torch.zeros(1, 11), state, slots)


def test_repeats_are_masked_and_yield_between_the_length_and_the_bans() -> None:
    state = SlotState(num_slots=5, vocab_size=VOCAB)
    touched = TouchedTokens.of([199], flags=TokenFlag.EOS).merge(
        TouchedTokens.of([8], flags=TokenFlag.BANNED)
    )
    greedy = ((Stage.TEMPERATURE, 0.0, 0.0),)
    # What has followed the last token before, and so may not follow again.
    repeats = [[7, 9, 63], [7], [7], [], []]
    for slot, followers in enumerate(repeats):
        params = SlotParams(key=slot, min_tokens=2 if slot < 2 else 0, chain=greedy, ngram=2)
        instruction = [token for follower in followers for token in (50, follower)]
        state.admit(slot, params, touched, instruction=[*instruction, 50])
    left = [[7, 8, 3], [7, 8, 199], [7, 8], [7, 8], [3]]
    logits = torch.from_numpy(np.stack([only(tokens) for tokens in left]))
    slots = torch.arange(5)
    result = control(logits, state, slots)
    selection = select(result, state, slots)
    assert selection.tokens.tolist() == [3, 199, 7, 7, 3]
    assert selection.yielded.tolist() == [0, YIELDED_MIN_TOKENS, YIELDED_REPEATS, 0, 0]
    assert result.logits[2, 7] == 1
    assert not (result.logits[0, [7, 9, 63]] > -torch.inf).any()
