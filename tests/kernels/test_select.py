"""Selection against brute force over the whole row, for every stage alone and any chain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.kernels import oracle, rows
from tests.kernels.batch import Row, run

from bosal_kernels import (
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
from bosal_kernels.groups import GroupedRows, first_tokens, group_max
from bosal_kernels.truncate import truncate
from bosal_kernels.truncation import Truncation

# Vocabulary sizes around the group and word sizes, and hypothesis examples for each.
SIZES = {1: 5, 31: 30, 33: 30, 63: 30, 64: 30, 65: 30, 100: 50, 192: 30, 4097: 50, 50257: 12}

row_specs = st.lists(
    st.tuples(
        st.sampled_from(rows.KINDS),
        st.integers(0, 2**32 - 1),  # logits and chain
        st.integers(0, 2**64 - 1),  # key
        st.one_of(st.integers(0, 3), st.integers(0, 2**45)),  # position
    ),
    min_size=1,
    max_size=12,
)


def wanted(row: Row, z: torch.Tensor) -> int:
    return oracle.choose(z.numpy(), row.chain, row.key, row.position)


def check(batch: list[Row]) -> None:
    controlled, selection = run(batch)
    for row, z, token in zip(batch, controlled.logits, selection.tokens.tolist(), strict=True):
        assert token == wanted(row, z), (row.chain, row.key, row.position)


@pytest.mark.long
@pytest.mark.parametrize("vocab_size", SIZES)
def test_any_batch_of_any_chains_gets_the_tokens_of_brute_force(vocab_size: int) -> None:
    @settings(max_examples=SIZES[vocab_size])
    @given(row_specs)
    def mixed(specs: list[tuple[str, int, int, int]]) -> None:
        check(
            [
                Row(
                    logits=rows.logits(kind, vocab_size, seed),
                    chain=rows.random_chain(seed),
                    key=key,
                    position=position,
                )
                for kind, seed, key, position in specs
            ]
        )

    mixed()


TOP_K = (Stage.TOP_K, 9, 0.0)


@pytest.mark.parametrize("vocab_size", [100, 4097])
@pytest.mark.parametrize("stage", list(rows.VALUES), ids=lambda stage: stage.name)
def test_each_stage_alone_gets_the_tokens_of_brute_force(stage: Stage, vocab_size: int) -> None:
    batch = []
    for number, (value, second) in enumerate(rows.VALUES[stage]):
        for place, temperature in enumerate(rows.TEMPERATURES):
            heat = (Stage.TEMPERATURE, temperature, 0.0)
            cut = (stage, value, second)
            chains: list[oracle.Chain] = [(heat, cut), (cut, heat)]
            if stage is Stage.DYNAMIC_TEMPERATURE:
                chains = [(cut,), (TOP_K, cut)]
            for kind in rows.KINDS[number % 3 :: 3]:
                z = rows.logits(kind, vocab_size, 1000 * number + place)
                for chain in chains:
                    batch.append(Row(logits=z, chain=chain, key=number, position=place))
    check(batch)


def test_chains_of_all_stages_get_the_tokens_of_brute_force() -> None:
    check(
        [
            Row(
                logits=rows.logits(rows.KINDS[seed % len(rows.KINDS)], 1000, seed),
                chain=rows.random_chain(seed, max_stages=8),
                key=seed,
            )
            for seed in range(300)
        ]
    )


@pytest.mark.parametrize("after", [Stage.TOP_P, Stage.EPSILON, Stage.ETA, Stage.TYPICAL])
def test_what_is_left_far_below_the_maximum_keeps_its_weights(after: Stage) -> None:
    # At T = 0.02 the row's best token outweighs what XTC leaves by more than float32 can hold.
    batch = []
    for seed in range(60):
        cut = (Stage.XTC, 1.0, 1e-3)
        cold = (Stage.TEMPERATURE, (0.02, 0.1)[seed % 2], 0.0)
        z = rows.logits("narrow", 1000, seed)
        z[seed] = 4.0
        chain = (cut, cold, (after, 0.0513 if after == Stage.EPSILON else 0.6013, 0.0))
        batch.append(Row(logits=z, chain=chain, key=seed, position=seed))
    check(batch)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 5.0])
def test_a_pending_top_p_leaves_out_what_the_sum_of_the_row_leaves_out(temperature: float) -> None:
    # Whether a bound decides or the sum: around the cut every token is asked about.
    kinds = [kind for kind in rows.KINDS if kind not in ("huge", "one_left")]
    z = torch.from_numpy(np.stack([rows.logits(kind, 4097, 5) for kind in kinds]))
    grouped = GroupedRows(z, group_max(z))
    row_max, place = z.amax(1), torch.arange(len(z))
    share = 0.9003
    truncation = Truncation(
        grouped,
        place,
        row_max=row_max,
        first_token=first_tokens(grouped),
        key=place,
        position=place,
    )
    stages = torch.tensor([[Stage.TEMPERATURE, Stage.TOP_P]]).expand(len(z), 2)
    values = torch.tensor([[temperature, share]], dtype=torch.float64).expand(len(z), 2)
    truncate(truncation, stages, values, torch.zeros_like(values))
    weight = ((z - row_max[:, None]) / temperature).double().exp()
    order = z.sort(dim=1, descending=True, stable=True).indices
    ahead = weight.gather(1, order).cumsum(1) - weight.gather(1, order)
    target = share * weight.sum(1)
    last = (ahead < target[:, None]).sum(1) - 1
    for step in (-30, -4, 4, 30):
        at = (last + step).clamp(1, 4096)[:, None]
        token = order.gather(1, at).squeeze(1)
        left_out = truncation.nucleus.leaves_out(place, grouped.at(place, token), token)
        assert torch.equal(left_out, ahead.gather(1, at).squeeze(1) >= target)


def test_a_batch_of_short_lists_gets_the_tokens_of_brute_force() -> None:
    # Where a top-k leaves few of every row, these alone get their noise.
    shortening = [(Stage.TOP_K, float(k), 0.0) for k in (1, 2, 50, 64)]
    behind = [
        (),
        ((Stage.TOP_P, 0.9, 0.0),),
        ((Stage.XTC, 1.0, 0.05), (Stage.MIN_P, 0.02, 0.0)),
        ((Stage.TYPICAL, 0.7, 0.0),),
        ((Stage.TOP_K, 20.0, 0.0), (Stage.TOP_P, 0.5, 0.0)),
    ]
    for seed, kind in enumerate(rows.KINDS):
        for vocab_size in (70, 4097):
            z = rows.logits(kind, vocab_size, seed)
            warm = (Stage.TEMPERATURE, 0.8 + seed % 3, 0.0)
            chains = [(warm, few, *rest) for few in shortening for rest in behind]
            check(
                [
                    Row(logits=z, chain=chain, key=seed * 100 + place, position=place)
                    for place, chain in enumerate(chains)
                ]
            )


def test_touched_tokens_take_part_like_any_other() -> None:
    rng = np.random.default_rng(3)
    batch = []
    for seed in range(150):
        ids = rng.permutation(1000)[: rng.integers(1, 400)].tolist()
        deltas = rng.normal(0, 4, len(ids)).tolist()
        flags = [TokenFlag.BANNED if banned else 0 for banned in rng.random(len(ids)) < 0.2]
        batch.append(
            Row(
                logits=rows.logits(rows.KINDS[seed % len(rows.KINDS)], 1000, seed),
                chain=rows.random_chain(seed),
                key=seed,
                touched=TouchedTokens.of(ids, deltas, flags),
                repetition=1.3,
            )
        )
    check(batch)


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-44])
def test_tiny_temperatures_draw_the_first_of_the_best(temperature: float) -> None:
    z = rows.logits("normal", 200, 1)
    row = Row(logits=z, chain=((Stage.TEMPERATURE, temperature, 0.0), (Stage.TOP_P, 0.9, 0.0)))
    assert run([row])[1].tokens.tolist() == [int(z.argmax())]


def test_greedy_ties_go_to_the_lowest_id_in_every_group() -> None:
    for best in (0, 63, 64, 127, 128, 998):
        z = np.zeros(1000, dtype=np.float32)
        z[[best, 999]] = 2.0
        greedy = ((Stage.TEMPERATURE, 0.0, 0.0),)
        assert run([Row(logits=z, chain=greedy)])[1].tokens.tolist() == [best]


def test_rows_without_a_choice_get_minus_one_and_disturb_nobody() -> None:
    fine = rows.logits("normal", 300, 5)
    nothing = np.full(300, -np.inf, dtype=np.float32)
    with_nan, with_inf = fine.copy(), fine.copy()
    with_nan[299] = np.nan
    with_inf[70] = np.inf
    for chain in ((), ((Stage.TEMPERATURE, 0.0, 0.0),), ((Stage.TOP_P, 0.5021, 0.0),)):
        batch = [
            Row(logits=z, chain=chain, logprobs=2)
            for z in (fine, nothing, with_nan, with_inf, fine)
        ]
        selection = run(batch)[1]
        good = oracle.choose(fine, chain, 0, 0)
        assert selection.tokens.tolist() == [good, -1, -1, -1, good]
        assert selection.invalid.tolist() == [False, False, True, True, False]
        assert selection.yielded.tolist() == [0] * 5
        assert selection.logprobs is not None
        assert selection.logprobs.raw_rank.tolist()[1:4] == [0, 0, 0]
        assert bool(torch.isnan(selection.logprobs.controlled_logprob[1:4]).all())


def test_an_nan_under_a_ban_is_still_reported() -> None:
    z = rows.logits("normal", 100, 5)
    z[3] = np.nan
    banned = TouchedTokens.of([3], flags=TokenFlag.BANNED)
    selection = run([Row(logits=z, touched=banned)])[1]
    assert selection.invalid.tolist() == [True]
    assert selection.tokens.tolist() == [-1]


def invariance_rows(vocab_size: int) -> list[Row]:
    return [
        Row(
            logits=rows.logits(rows.KINDS[seed % len(rows.KINDS)], vocab_size, seed),
            chain=rows.random_chain(seed),
            key=seed * 7919,
            position=seed,
            logprobs=seed % 4 - 1,
            touched=TouchedTokens.of(range(seed), [0.25] * seed),
            repetition=1.0 + seed % 2,
        )
        for seed in range(30)
    ]


def outcome(rows_: list[Row], slots: list[int], num_slots: int) -> dict[int, tuple[object, ...]]:
    """What each row got, by its key, as exact bits."""
    selection = run(rows_, slots, num_slots)[1]
    found: dict[int, tuple[object, ...]] = {}
    for place, row in enumerate(rows_):
        found[row.key] = (int(selection.tokens[place]),)
    if selection.logprobs is not None:
        given_ = selection.logprobs
        for number, place in enumerate(given_.rows.tolist()):
            row = rows_[place]
            bits = [
                given_.raw_logprob[number].view(torch.int32).item(),
                given_.controlled_logprob[number].view(torch.int32).item(),
                int(given_.raw_rank[number]),
                int(given_.controlled_rank[number]),
                *given_.top_raw.ids[number, : row.logprobs].tolist(),
                *given_.top_raw.logprobs[number, : row.logprobs].view(torch.int32).tolist(),
                *given_.top_controlled.ids[number, : row.logprobs].tolist(),
                *given_.top_controlled.logprobs[number, : row.logprobs].view(torch.int32).tolist(),
            ]
            found[row.key] += tuple(bits)
    return found


@pytest.mark.parametrize("vocab_size", [100, 4097, 50257])
def test_a_row_is_the_same_bits_alone_and_in_any_batch_slot_and_order(vocab_size: int) -> None:
    batch = invariance_rows(vocab_size)
    together = outcome(batch, list(range(30)), 30)
    for number in range(0, 30, 1 if vocab_size < 10000 else 4):
        row = batch[number]
        assert outcome([row], [number % 3], 3)[row.key] == together[row.key]
    rng = np.random.default_rng(0)
    for size in (2, 7, 30):
        chosen = [batch[place] for place in rng.permutation(30)[:size]]
        slots = rng.permutation(64)[:size].tolist()
        poison = Row(logits=np.full(vocab_size, np.nan, dtype=np.float32), key=-1)
        for key, bits in outcome([*chosen, poison], [*slots, 64], 65).items():
            assert key == -1 or bits == together[key]


def test_threads_do_not_change_a_bit() -> None:
    batch = invariance_rows(50257)
    alone = outcome(batch, list(range(30)), 30)
    try:
        torch.set_num_threads(3)
        assert outcome(batch, list(range(30)), 30) == alone
    finally:
        torch.set_num_threads(1)


def test_rules_that_do_not_act_leave_the_draw_as_it_was() -> None:
    z = rows.logits("model", 4097, 2)
    off = (
        (Stage.TOP_K, 0.0, 0.0),
        (Stage.TOP_P, 1.0, 0.0),
        (Stage.MIN_P, 0.0, 0.0),
        (Stage.TYPICAL, 1.0, 0.0),
        (Stage.EPSILON, 0.0, 0.0),
        (Stage.ETA, 0.0, 0.0),
        (Stage.XTC, 0.0, 0.1),
    )
    plain = [Row(logits=z, key=1, position=position) for position in range(40)]
    ruled = [Row(logits=z, key=1, position=position, chain=off) for position in range(40)]
    assert torch.equal(run(plain)[1].tokens, run(ruled)[1].tokens)


CHAINS = {
    "plain": (),
    "temperature": ((Stage.TEMPERATURE, 0.7, 0.0),),
    "top_k": ((Stage.TOP_K, 10.0, 0.0),),
    "top_p": ((Stage.TEMPERATURE, 1.3, 0.0), (Stage.TOP_P, 0.8, 0.0)),
    "top_k_top_p": ((Stage.TOP_K, 30.0, 0.0), (Stage.TOP_P, 0.7, 0.0)),
    "min_p": ((Stage.MIN_P, 0.1, 0.0), (Stage.TEMPERATURE, 2.0, 0.0)),
    "typical": ((Stage.TYPICAL, 0.6, 0.0),),
}


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 200])
def test_greedy_rows_take_alone_what_they_take_beside_one_that_draws(vocab_size: int) -> None:
    # Where nobody draws, rows are looked at whole and not by groups.
    greedy = ((Stage.TEMPERATURE, 0.0, 0.0),)
    kinds = [rows.logits(kind, vocab_size, 3) for kind in rows.KINDS]
    ties, nan = np.ones(vocab_size, np.float32), np.ones(vocab_size, np.float32)
    nan[-1] = np.nan
    empty = np.full(vocab_size, -np.inf, np.float32)
    batch = [Row(logits=z, chain=greedy) for z in (*kinds, ties, nan, -empty, empty)]
    alone, taken = run(batch)
    beside, as_taken = run([*batch, Row(logits=ties)])
    assert alone.group_max is None
    assert beside.group_max is not None
    assert taken.tokens.tolist() == as_taken.tokens[:-1].tolist()
    assert taken.tokens[:-3].tolist() == [int(row.logits.argmax()) for row in batch[:-3]]
    assert taken.tokens[-3:].tolist() == [-1, -1, -1]
    assert taken.invalid.tolist() == as_taken.invalid[:-1].tolist()
    is_number = ~taken.invalid
    assert torch.equal(alone.row_max[is_number], beside.row_max[:-1][is_number])


def test_what_a_scope_takes_away_draws_after_all() -> None:
    cold, late = (Stage.TEMPERATURE, 0.0, 0.0), Scope(after=1)
    scoped = ScopedValue(param="chain_stage", value=Stage.TEMPERATURE, scope=late)
    assert SlotParams(key=1, chain=(cold,)).is_greedy
    assert not SlotParams(key=1, chain=(cold,), scoped=(scoped,)).is_greedy
    assert not SlotParams(key=1, chain=((Stage.TEMPERATURE, 0.5, 0.0),)).is_greedy
    assert not SlotParams(key=1).is_greedy
    state = SlotState(num_slots=40, vocab_size=64)
    for slot in range(40):
        params = SlotParams(key=slot, chain=((Stage.NONE, 0.0, 0.0),), scoped=(scoped,))
        state.admit(slot, params, TouchedTokens.of())
    slots = torch.arange(40)
    z = torch.linspace(0, 1, 64).repeat(40, 1)
    first = select(control(z.clone(), state, slots), state, slots).tokens
    assert len(set(first.tolist())) > 10
    state.advance(slots.tolist(), first.tolist())
    second = select(control(z.clone(), state, slots), state, slots).tokens
    assert set(second.tolist()) == {63}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_draws_follow_the_softmax_of_what_is_kept(
    chain: tuple[tuple[Stage, float, float], ...],
) -> None:
    num_slots, steps, vocab_size = 2000, 100, 70
    z = rows.logits("normal", vocab_size, 77)
    mask, scaled = oracle.kept(z, chain, 0, 0)
    weight = np.where(mask, np.exp(scaled.astype(np.float64)), 0.0)
    expected = weight / weight.sum() * num_slots * steps
    state = SlotState(num_slots=num_slots, vocab_size=vocab_size)
    for slot in range(num_slots):
        state.admit(slot, SlotParams(key=slot * 0x1234567, chain=chain), TouchedTokens.of())
    slots = torch.arange(num_slots)
    logits = torch.from_numpy(z).repeat(num_slots, 1)
    controlled = control(logits, state, slots)
    drawn = []
    for step in range(steps):
        state.position[:] = step
        drawn.append(select(controlled, state, slots).tokens)
    tokens = torch.stack(drawn)
    counts = np.bincount(tokens.flatten().numpy(), minlength=vocab_size)
    assert counts[~mask].sum() == 0
    common = expected >= 5
    observed = np.append(counts[common], counts[~common & mask].sum())
    wanted_ = np.append(expected[common], expected[~common].sum())
    if wanted_[-1] < 5:
        observed, wanted_ = observed[:-1], wanted_[:-1]
        wanted_ *= observed.sum() / wanted_.sum()
    assert stats.chisquare(observed, wanted_).pvalue > 1e-4
    # Successive positions of a choice, and neighbouring choices at one position.
    best = int(expected.argmax())
    hits = (tokens == best).numpy()
    for left, right in ((hits[:-1], hits[1:]), (hits[:, :-1], hits[:, 1:])):
        table = np.array(
            [[np.sum(left & right), np.sum(left & ~right)], [np.sum(~left & right), 0]]
        )
        table[1, 1] = left.size - table.sum()
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_selection_leaves_state_and_logits_alone() -> None:
    z = rows.logits("normal", 500, 9)
    state = SlotState(num_slots=1, vocab_size=500)
    state.admit(0, SlotParams(key=4, chain=((Stage.TOP_P, 0.9, 0.0),)), TouchedTokens.of([3], 1.0))
    slots = torch.tensor([0])
    controlled = control(torch.from_numpy(z)[None].clone(), state, slots)
    before = controlled.logits.clone()
    first = select(controlled, state, slots)
    assert torch.equal(select(controlled, state, slots).tokens, first.tokens)
    assert torch.equal(controlled.logits, before)
    assert state.position.tolist() == [0]
