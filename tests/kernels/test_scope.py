"""Scoped numbers: what is in force at a step, and nothing left behind."""

import numpy as np
import pytest
import torch
from tests.kernels import rows

from bosal_kernels import (
    ACTIVE,
    DELTA,
    HostScopes,
    InvalidSlotParams,
    Region,
    Scope,
    ScopedValue,
    SlotParams,
    SlotState,
    Stage,
    TokenFlag,
    TouchedTokens,
    control,
)
from bosal_kernels.resolve import certainty

VOCAB = 200


def scoped(param: str, value: float, column: int = 0, **scope: object) -> ScopedValue:
    return ScopedValue(param=param, value=value, column=column, scope=Scope(**scope))  # type: ignore[arg-type]


def step(state: SlotState, *slots: int, kind: str = "wide") -> torch.Tensor:
    logits = torch.from_numpy(np.stack([rows.logits(kind, VOCAB, slot) for slot in slots]))
    return control(logits, state, torch.tensor(slots)).logits


def test_two_values_of_one_place_take_turns_by_position() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    values = (
        scoped("repetition", 2.0, until=2),
        scoped("repetition", 3.0, after=4),
        scoped("chain_stage", Stage.TOP_K, column=0, after=1, until=3),
    )
    params = SlotParams(key=1, chain=((Stage.TOP_K, 5.0, 0.0),), scoped=values)
    state.admit(1, params, TouchedTokens.of())
    seen, stages = [], []
    for _ in range(6):
        step(state, 0, 1)
        seen.append(state.repetition[1].item())
        stages.append(int(state.chain_stage[1, 0]))
        state.advance([1], [3])
    assert seen == [2.0, 2.0, 1.0, 1.0, 3.0, 3.0]
    assert stages == [0, 2, 2, 0, 0, 0]
    state.retract(1, [3] * 6)
    step(state, 1)
    assert state.repetition[1].item() == 2.0


def test_weights_under_scopes_add_up_and_leave_no_trace() -> None:
    state = SlotState(num_slots=3, vocab_size=VOCAB, touched_capacity=2)
    values = (
        scoped(DELTA, 0.1, column=9, until=3),
        scoped(DELTA, 0.7, column=9, after=1, until=2),
        scoped(DELTA, -4.0, column=5, region=Region.INSIDE),
    )
    touched = TouchedTokens.of([9, 5, 7], [0.3, 0.0, 1.0], TokenFlag.LISTED)
    state.admit(2, SlotParams(key=1, scoped=values), touched)
    raw = torch.from_numpy(rows.logits("wide", VOCAB, 2))
    for length in range(6):
        state.in_constraint[2] = length == 4
        moved = (step(state, 0, 2)[1] - raw).double()
        expected = torch.zeros(VOCAB, dtype=torch.float64)
        expected[9] = 0.3 + 0.1 * (length < 3) + 0.7 * (length == 1)
        expected[5], expected[7] = -4.0 * (length == 4), 1.0
        torch.testing.assert_close(moved, expected, atol=2e-6, rtol=0)
        state.advance([2], [11])
    assert state.t_delta[2, 0] == state.t_base[2, 0]


def test_the_host_puts_in_force_what_a_step_of_the_torch_path_does() -> None:
    values = (
        scoped("repetition", 2.0, until=2),
        scoped("repetition", 3.0, after=4),
        scoped("chain_stage", Stage.TOP_K, column=0, after=1, until=3),
        scoped(DELTA, 0.1, column=9, until=3),
        scoped(DELTA, 0.7, column=9, after=1, until=2),
        scoped(DELTA, -4.0, column=5, region=Region.INSIDE),
        scoped("ngram", 3, region=Region.OUTSIDE),
        scoped(ACTIVE, True, column=3, after=2),
    )
    params = SlotParams(key=1, chain=((Stage.TOP_K, 5.0, 0.0),), scoped=values)
    touched = TouchedTokens.of([9, 5, 7], [0.3, 0.0, 1.0], TokenFlag.LISTED)
    states = [SlotState(num_slots=3, vocab_size=VOCAB) for _ in range(2)]
    for state in states:
        state.admit(2, params, touched)
    ours, theirs = states
    scopes = HostScopes(ours)
    tables = ("repetition", "chain_stage", "t_delta", "ngram", "active")
    # Back at the end, and once after others have written.
    for at, position in enumerate((0, 1, 2, 3, 4, 5, 1, 1)):
        inside = position % 3 == 1
        theirs.position[2], theirs.in_constraint[2] = position, inside
        step(theirs, 0, 2)
        if at == 7:
            ours.repetition[2] = 9.0
            scopes.forget([2])
        scopes.resolve([0, 2], [7, position], [False, inside])
        for name in tables:
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), (name, position)


def test_gates_read_the_row_as_the_model_gave_it() -> None:
    kinds = ["wide", "confident", "equal", "half_left", "bf16"]
    logits = torch.from_numpy(np.stack([rows.logits(kind, VOCAB, 3) for kind in kinds]))
    state = SlotState(num_slots=len(kinds), vocab_size=VOCAB)
    top1, entropy = certainty(logits, torch.arange(len(kinds)))
    p = logits.double().softmax(1)
    exact = -(p * p.clamp(min=1e-300).log()).sum(1)
    torch.testing.assert_close(top1, p.amax(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy, exact, rtol=1e-5, atol=1e-6)
    for slot in range(len(kinds)):
        # The presence penalty would change the row; the gate must not see that.
        values = (
            scoped("presence", 1.0, top1_below=float(p[slot].max()) + 1e-3),
            scoped("frequency", 1.0, top1_below=float(p[slot].max()) - 1e-3),
            scoped("used_weight", 1.0, entropy_above=float(exact[slot]) - 1e-3),
            scoped("eos_ramp_weight", 1.0, entropy_above=float(exact[slot]) + 1e-3),
            scoped(ACTIVE, True, column=3, top1_below=2.0, after=1),
        )
        touched = TouchedTokens.of(range(VOCAB), 5.0)
        state.admit(slot, SlotParams(key=0, scoped=values), touched)
    control(logits, state, torch.arange(len(kinds)))
    assert state.presence.tolist() == [1.0] * len(kinds)
    assert state.frequency.tolist() == [0.0] * len(kinds)
    assert state.used_weight.tolist() == [1.0] * len(kinds)
    assert state.eos_ramp_weight.tolist() == [0.0] * len(kinds)
    assert not state.active[:, 3].any()
    assert state.active[:, :3].all()


def test_a_row_that_is_no_distribution_opens_no_gate() -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    values = (scoped("presence", 1.0, top1_below=1.0), scoped("frequency", 1.0, entropy_above=0.0))
    state.admit(0, SlotParams(key=0, scoped=values), TouchedTokens.of())
    control(torch.full((1, VOCAB), torch.nan), state, torch.tensor([0]))
    assert [state.presence[0].item(), state.frequency[0].item()] == [0, 0]


def test_a_freed_slot_is_neutral_again() -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    values = tuple(scoped("min_tokens", 9, until=at) for at in range(1, 9))
    state.admit(0, SlotParams(key=0, scoped=values[:1]), TouchedTokens.of())
    state.admit(0, SlotParams(key=0, scoped=values), TouchedTokens.of())
    step(state, 0)
    assert state.scopes.is_used
    state.free(0)
    assert not state.scopes.is_used
    assert state.min_tokens[0] == 0
    assert bool(state.active.all())


@pytest.mark.parametrize("wrong", [{"after": 3, "until": 3}, {"top1_below": float("nan")}])
def test_scopes_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSlotParams):
        Scope(**wrong)  # type: ignore[arg-type]


def test_scopes_overlap_unless_position_or_region_parts_them() -> None:
    early, late = Scope(until=3), Scope(after=3)
    assert not early.overlaps(late)
    assert early.overlaps(Scope(after=2))
    assert not Scope(region=Region.INSIDE).overlaps(Scope(region=Region.OUTSIDE))
    assert Scope(region=Region.INSIDE).overlaps(Scope())
    assert Scope(top1_below=0.1).overlaps(Scope(entropy_above=3.0))
