"""The combine stage against its formula in float64, one group at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bosal_kernels import (
    Combined,
    CombineParams,
    CombineState,
    InvalidCombineParams,
    Scope,
    SlotParams,
    SlotState,
    Space,
    TouchedTokens,
    combine,
)

V = 200
Rows = NDArray[np.float64]


def lse(row: Rows) -> float:
    top = row.max()
    return float(top + np.log(np.exp(row - top).sum()))


def oracle(rows: Rows, params: CombineParams, position: int) -> tuple[Rows, bool]:
    """One group's row, and whether its streams had a say."""
    base = rows[0]
    p = np.exp(base - lse(base))
    scope = params.scope
    entropy = -(p * np.log(p)).sum()
    if not (
        scope.after <= position < scope.until
        and p.max() < scope.top1_below
        and entropy > scope.entropy_above
    ):
        return base, False
    x = [row / t for row, t in zip(rows, params.temperatures or [1] * len(rows), strict=True)]
    end = params.strength if params.final_strength is None else params.final_strength
    s = params.strength + (end - params.strength) * min(position, params.over) / params.over
    if params.by_confidence:
        q = np.exp(x[1] - lse(x[1]))
        s *= min(q.max() / (q.max() + p.max()) + 0.1 * p[q.argmax()], 1)
    w = [a + s * b for a, b in zip(params.weights, params.slopes, strict=True)]
    y = x if params.space is Space.LOGITS else [row - lse(row) for row in x]
    if params.space is Space.PROBABILITIES:
        z = np.log(sum(wi * np.exp(yi) for wi, yi in zip(w, y, strict=True)))
    else:
        z = sum((wi * yi for wi, yi in zip(w, y, strict=True)), np.zeros_like(base))
    if params.plausibility > 0:
        z = np.where(p >= params.plausibility * p.max() * (1 - 1e-6), z, -np.inf)
    if params.nucleus < 1:
        order = np.sort(p)[::-1]
        edge = order[min(int((order.cumsum() < params.nucleus).sum()), len(p) - 1)]
        z = np.where(p >= edge * (1 - 1e-9), z, -np.inf)
    return z, True


def run(
    groups: Sequence[tuple[CombineParams | None, torch.Tensor, int]], **options: bool
) -> Combined:
    coupling = CombineState(len(groups))
    state = SlotState(num_slots=len(groups), vocab_size=groups[0][1].shape[1])
    for slot, (params, _, position) in enumerate(groups):
        coupling.admit(slot, params)
        state.admit(slot, SlotParams(key=0), TouchedTokens.of())
        state.position[slot] = position
    rows = torch.cat([rows for _, rows, _ in groups])
    return combine(rows, coupling, state, range(len(groups)), **options)


SHARE = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@st.composite
def params_of(draw: st.DrawFn) -> CombineParams | None:
    count = draw(st.integers(1, 4))
    if count == 1:
        return None
    numbers = st.floats(-3, 3)
    space = draw(st.sampled_from([Space.LOGITS, Space.LOGPROBS, Space.PROBABILITIES]))
    if space is Space.PROBABILITIES:
        shares: dict[str, Any] = {
            "weights": (1.0, *([0.0] * (count - 1))),
            "slopes": (-1.0, 1.0, *([0.0] * (count - 2))),
            "strength": draw(st.floats(0, 1)),
        }
    else:
        shares = {
            "weights": tuple(draw(numbers) for _ in range(count)),
            "slopes": tuple(draw(numbers) for _ in range(count)),
            "strength": draw(numbers),
            "final_strength": draw(st.none() | numbers),
            "over": draw(st.integers(1, 8)),
        }
    after = draw(st.integers(0, 6))
    return CombineParams(
        space=space,
        **shares,
        temperatures=draw(st.just(()) | st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * count)),
        scope=Scope(
            after=after,
            until=draw(st.just(2**62) | st.integers(after + 1, 12)),
            top1_below=draw(st.sampled_from([np.inf, 0.5, 0.1])),
            entropy_above=draw(st.sampled_from([-np.inf, 2.0, 4.0])),
        ),
        by_confidence=draw(st.booleans()),
        plausibility=draw(SHARE),
        nucleus=draw(st.sampled_from([1.0, 0.9, 0.3])),
    )


@settings(max_examples=120)
@given(
    many=st.lists(st.tuples(params_of(), st.integers(0, 12)), min_size=1, max_size=6),
    seed=st.integers(0, 999),
)
def test_any_mix_of_groups_follows_the_formula(
    many: list[tuple[CombineParams | None, int]], seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    groups = []
    for params, position in many:
        count = 1 if params is None else params.num_streams
        groups.append((params, torch.randn(count, V, generator=chance) * 3, position))
    combined = run(groups)
    for place, (params, rows, position) in enumerate(groups):
        if params is None:
            assert torch.equal(combined.rows[place], rows[0])
            continue
        expected, acts = oracle(rows.double().numpy(), params, position)
        row = combined.rows[place].double().numpy()
        assert combined.acted is not None
        assert bool(combined.acted[place]) == acts
        finite = np.isfinite(expected)
        assert (np.isfinite(row) == finite).all()
        np.testing.assert_allclose(row[finite], expected[finite], atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("space", [Space.LOGITS, Space.LOGPROBS, Space.PROBABILITIES])
def test_a_group_gives_the_same_bits_in_any_batch(space: Space) -> None:
    chance = torch.Generator().manual_seed(1)
    params = CombineParams(
        space=space, weights=(1, 0), slopes=(-1, 1), strength=0.3, plausibility=0.01
    )
    three = CombineParams(space=Space.LOGITS, weights=(1, 0, 0), slopes=(0, 1, -1), strength=1)
    groups = [
        (one, torch.randn(count, V, generator=chance), 3)
        for one, count in ((params, 2), (None, 1), (three, 3), (params, 2), (None, 1))
    ]
    together = run(groups).rows
    for place, group in enumerate(groups):
        assert torch.equal(together[place], run([group]).rows[0])


def test_the_streams_rows_are_not_changed() -> None:
    rows = torch.randn(2, V, generator=torch.Generator().manual_seed(2))
    before = rows.clone()
    params = CombineParams(space=Space.LOGPROBS, weights=(0, 1), slopes=(1, -1), strength=2)
    combined = run([(params, rows, 0)])
    assert torch.equal(combined.streams, before)
    assert torch.equal(rows, before)


def test_padding_counts_nowhere() -> None:
    rows = torch.randn(2, V, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([rows, torch.full((2, 56), -torch.inf)], 1)
    params = CombineParams(space=Space.LOGPROBS, weights=(0, 1), slopes=(1, -1), strength=0)
    wide = run([(params, padded, 0)]).rows[0]
    torch.testing.assert_close(wide[:V], run([(params, rows, 0)]).rows[0])
    assert (wide[V:] == -torch.inf).all()


@pytest.mark.parametrize("space", [Space.LOGITS, Space.LOGPROBS, Space.PROBABILITIES])
@pytest.mark.parametrize("others", [torch.arange(V) == 9, torch.arange(V) >= 0])
def test_a_stream_of_no_weight_takes_no_token_away(space: Space, others: torch.Tensor) -> None:
    """Not one that it lacks itself, be it all of them."""
    rows = torch.randn(2, V, generator=torch.Generator().manual_seed(2))
    rows[1, others] = -torch.inf
    params = CombineParams(space=space, weights=(1, 0), slopes=(0, 1), strength=0.0)
    found = run([(params, rows, 0)]).rows[0]
    torch.testing.assert_close(found.log_softmax(0), rows[0].log_softmax(0))
    # And of the base only what it lacks.
    swapped = CombineParams(space=space, weights=(0, 1), slopes=(1, 0), strength=0.0)
    found = run([(swapped, rows.flip(0), 0)]).rows[0]
    assert torch.equal(found == -torch.inf, others)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("stream", [0, 1])
def test_a_faulty_stream_shows(bad: float, stream: int) -> None:
    """Not hidden by a mask, a weight of zero or a difference."""
    rows = torch.zeros(2, V)
    rows[0, 5] = 20.0
    rows[stream, 9] = bad
    params = CombineParams(
        space=Space.LOGITS, weights=(1, 0), slopes=(0, -1), strength=0.0, plausibility=0.5
    )
    assert not (run([(params, rows, 0)]).rows[0] < torch.inf).all()


def test_a_faulty_stream_without_a_say_shows_not() -> None:
    rows = torch.randn(2, V, generator=torch.Generator().manual_seed(2))
    base = rows[0].clone()
    rows[1, 9] = torch.nan
    params = CombineParams(
        space=Space.LOGPROBS, weights=(0, 1), slopes=(1, -1), strength=2.0, scope=Scope(after=3)
    )
    assert torch.equal(run([(params, rows, 2)]).rows[0], base)
    assert not (run([(params, rows, 3)]).rows[0] < torch.inf).any()


def test_masks_can_be_left_out() -> None:
    rows = torch.zeros(2, V)
    rows[0, 5] = 20.0
    params = CombineParams(
        space=Space.LOGITS, weights=(1, 0), slopes=(0, -1), strength=1, plausibility=0.5
    )
    combined = run([(params, rows, 0)])
    assert list(combined.masked) == [0]
    assert combined.rows[0].isfinite().sum() == 1
    relaxed = run([(params, rows, 0)], is_masking=False)
    assert relaxed.rows.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        {"weights": (1.0,), "slopes": (1.0,)},
        {"slopes": (1.0,)},
        {"temperatures": (1.0,)},
        {"temperatures": (1.0, 0.0)},
        {"over": 0},
        {"plausibility": 1.5},
        {"nucleus": 0.0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    numbers = {"weights": (1.0, 0.0), "slopes": (0.0, 1.0)} | change
    with pytest.raises(InvalidCombineParams):
        CombineParams(space=Space.LOGITS, strength=1, **numbers)
