"""The slots' state against a recount from each choice's history."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bosal_kernels import (
    ACTIVE,
    MAX_STAGES,
    InvalidSlotParams,
    InvalidTouchedTokens,
    KernelError,
    Scope,
    ScopedValue,
    SlotParams,
    SlotState,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.resolve import resolve

VOCAB = 60
ACTIONS = ("admit", "free", "advance", "append", "retract", "ban", "touch")
SHARES = (0.04, 0.02, 0.4, 0.1, 0.17, 0.17, 0.1)


@dataclass
class History:
    """What has happened to a choice since it was admitted."""

    edits: dict[int, tuple[float, int]] = field(default_factory=dict)
    # Whether a rule counts the output.
    is_counted: bool = False
    output: list[int] = field(default_factory=list)
    bans: set[tuple[int, int]] = field(default_factory=set)


def entries(state: SlotState, slot: int) -> dict[int, tuple[int, float, int]]:
    """The touched list as token -> (count, delta, flag), neutral entries left out."""
    count = int(state.n_touch[slot])
    tokens = state.t_tok[slot, :count].tolist()
    assert len(set(tokens)) == count
    positions = state.t_pos[slot]
    assert [int(positions[token]) for token in tokens] == list(range(count))
    assert int((positions >= 0).sum()) == count
    for table in (state.t_tok, state.t_out_count, state.t_delta, state.t_flag):
        assert not table[slot, count:].any()
    values = zip(
        tokens,
        state.t_out_count[slot].tolist(),
        state.t_delta[slot].tolist(),
        state.t_flag[slot].tolist(),
        strict=False,
    )
    return {
        token: (count, delta, flag)
        for token, count, delta, flag in values
        if count or delta or flag
    }


def bans(state: SlotState, slot: int) -> set[tuple[int, int]]:
    count = int(state.n_ban[slot])
    tokens = state.t_tok[slot, state.ban_index[slot, :count].long()].tolist()
    return set(zip(state.ban_position[slot, :count].tolist(), tokens, strict=True))


def recount(history: History) -> dict[int, tuple[int, float, int]]:
    found = {}
    for token in {*history.edits, *history.output}:
        delta, flag = history.edits.get(token, (0.0, 0))
        edit = (history.output.count(token) if history.is_counted else 0, delta, flag)
        if any(edit):
            found[token] = edit
    return found


def test_state_equals_a_recount_after_any_steps_in_any_slots() -> None:
    rng = np.random.default_rng(4)
    state = SlotState(num_slots=4, vocab_size=VOCAB, touched_capacity=3)
    live: dict[int, History] = {}
    for _ in range(1500):
        action = rng.choice(ACTIONS, p=SHARES)
        slot = int(rng.integers(4))
        if action == "admit":
            ids = rng.permutation(VOCAB)[: rng.integers(0, 12)].tolist()
            edits = {token: (float(rng.integers(-2, 3)), int(rng.integers(16))) for token in ids}
            touched = TouchedTokens.of(ids, [edits[t][0] for t in ids], [edits[t][1] for t in ids])
            is_counted = bool(rng.integers(2))
            # What is off has live parameters beside it.
            params = SlotParams(
                key=slot,
                presence=float(is_counted),
                presence_window=int(rng.integers(0, 4)),
                dry_multiplier=0.0,
                dry_window=int(rng.integers(0, 4)),
                repetition_instruction=int(rng.integers(2)),
                eos_ramp_over=3,
            )
            state.admit(slot, params, touched)
            live[slot] = History(edits=edits, is_counted=is_counted)
        elif action == "free":
            state.free(slot)
            live.pop(slot, None)
        elif action == "advance" and live:
            chosen = rng.permutation(list(live))[: rng.integers(1, 5)]
            tokens = rng.integers(0, VOCAB, len(chosen))
            state.advance(chosen.tolist(), tokens.tolist())
            for each, token in zip(chosen.tolist(), tokens.tolist(), strict=True):
                live[each].output.append(token)
        elif action == "append" and live:
            chosen = rng.permutation(list(live))[: rng.integers(1, 5)].tolist()
            lists = [rng.integers(0, VOCAB, rng.integers(0, 9)).tolist() for _ in chosen]
            state.append(chosen, lists)
            for each, said in zip(chosen, lists, strict=True):
                live[each].output += said
        elif action == "retract" and slot in live:
            history = live[slot]
            count = int(rng.integers(0, len(history.output) + 1)) % 6
            kept = len(history.output) - count
            state.retract(slot, history.output[kept:])
            history.output = history.output[:kept]
            history.bans = {ban for ban in history.bans if ban[0] <= kept}
        elif action == "ban" and slot in live:
            position = len(live[slot].output) + int(rng.integers(0, 2))
            tokens = rng.integers(0, VOCAB, rng.integers(0, 4))
            state.ban_at(slot, position, tokens.tolist())
            live[slot].bans |= {(position, token) for token in tokens.tolist()}
        elif action == "touch" and live:
            pairs = [(each, t) for each in live for t in rng.permutation(VOCAB)[:4].tolist()]
            slots, listed = torch.tensor(rng.permutation(pairs)).T
            state.touch(slots, listed)
            assert bool((state.t_pos[slots, listed] >= 0).all())
        for each in range(4):
            history = live.get(each, History())
            assert entries(state, each) == recount(history)
            assert int(state.position[each]) == len(history.output)
            assert bans(state, each) == history.bans


def tensors(state: SlotState) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in vars(state).items()
        if isinstance(value, torch.Tensor) and not name.startswith("_")
    }


def full_params() -> SlotParams:
    return SlotParams(
        key=2**64 - 5,
        repetition=1.2,
        presence=0.1,
        frequency=0.2,
        used_weight=-1.0,
        eos_ramp_weight=3.0,
        eos_ramp_over=9,
        eos_decay_start=2,
        eos_decay_factor=1.1,
        min_tokens=4,
        chain=((Stage.TOP_K, 5.0, 0.0), (Stage.XTC, 0.5, 0.1)),
        logprobs=3,
    )


@pytest.mark.parametrize("end", ["free", "admit"])
def test_a_reused_slot_keeps_nothing_of_its_past(end: str) -> None:
    used = SlotState(num_slots=2, vocab_size=VOCAB, touched_capacity=64)
    used.admit(1, full_params(), TouchedTokens.of([1, 2, 3], 2.0, TokenFlag.EOS))
    for token in range(20):
        used.advance([1], [token])
    used.ban_at(1, 20, [4, 5])
    fresh = SlotState(num_slots=2, vocab_size=VOCAB, touched_capacity=64)
    if end == "free":
        used.free(1)
    else:
        for state in (used, fresh):
            state.admit(1, SlotParams(key=8), TouchedTokens.of([7], 1.0))
    for name, table in tensors(fresh).items():
        assert torch.equal(getattr(used, name), table), name


def test_a_reused_slot_keeps_nothing_of_its_scopes() -> None:
    scope = Scope(after=1)
    used = SlotState(num_slots=2, vocab_size=VOCAB)
    params = SlotParams(
        key=1,
        scoped=(
            ScopedValue(param="repetition", value=2.0, scope=scope),
            ScopedValue(param="chain_stage", value=float(Stage.TOP_K), scope=scope, column=1),
            ScopedValue(param=ACTIVE, value=True, scope=scope, column=5),
        ),
    )
    used.admit(1, params, TouchedTokens.of())
    # Out of scope: the rule is not in force.
    resolve(torch.zeros(1, VOCAB), used, torch.tensor([1]))
    assert not bool(used.active[1, 5])
    used.advance([1], [0])
    resolve(torch.zeros(1, VOCAB), used, torch.tensor([1]))
    assert int(used.chain_stage[1, 1]) == Stage.TOP_K
    assert used.repetition[1].item() == 2.0
    used.free(1)
    fresh = SlotState(num_slots=2, vocab_size=VOCAB)
    for name, table in tensors(fresh).items():
        assert torch.equal(getattr(used, name), table), name
    assert not used.is_used("repetition")


class Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is written into tensors that exist."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += str(func).split(".")[1].endswith("_")
        return func(*args, **(kwargs or {}))


def test_a_plain_choice_comes_and_goes_by_few_writes() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB)
    params = SlotParams(key=3, chain=((Stage.TEMPERATURE, 0.0, 0.0),))
    with Writes() as writes:
        state.admit(0, params, TouchedTokens.of())
    # One for each type of number, the key, the chain's codes and its values.
    assert writes.count <= 7
    with Writes() as writes:
        state.free(0)
    assert writes.count <= 6


def test_numbers_begin_where_kernels_want_them() -> None:
    """At multiples of 16 bytes, however many slots there are."""
    state = SlotState(num_slots=5, vocab_size=VOCAB)
    for name, table in tensors(state).items():
        assert table.data_ptr() % 16 == 0 or table.dim() != 1, name
        assert table.is_contiguous(), name


def test_admit_stores_every_number() -> None:
    state = SlotState(num_slots=3, vocab_size=VOCAB)
    state.admit(1, full_params(), TouchedTokens.of([9, 4], [1.0, -2.0], [1, 2]))
    assert int(state.key[1]) == -5
    assert state.repetition[1].item() == pytest.approx(1.2)
    assert state.presence[1].item() == pytest.approx(0.1)
    assert state.frequency[1].item() == pytest.approx(0.2)
    assert state.used_weight[1].item() == -1.0
    assert state.eos_ramp_weight[1].item() == 3.0
    assert int(state.eos_ramp_over[1]) == 9
    assert int(state.min_tokens[1]) == 4
    assert int(state.logprobs[1]) == 3
    assert state.chain_stage[1].tolist() == [2, 9] + [0] * (MAX_STAGES - 2)
    assert state.chain_value[1, :2].tolist() == [5.0, 0.5]
    assert state.chain_second[1, :2].tolist() == [0.0, 0.1]
    assert entries(state, 1) == {9: (0, 1.0, 1), 4: (0, -2.0, 2)}
    untouched = SlotState(num_slots=3, vocab_size=VOCAB)
    for name, table in tensors(untouched).items():
        for slot in (0, 2):
            assert torch.equal(getattr(state, name)[slot], table[slot]), name


def test_touched_lists_grow_when_they_are_full() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB, touched_capacity=1)
    state.admit(0, SlotParams(key=0, presence=1.0), TouchedTokens.of([1, 2, 3]))
    state.admit(1, SlotParams(key=0, used_weight=1.0), TouchedTokens.of())
    for token in range(VOCAB):
        state.advance([0, 1], [token, VOCAB - 1 - token])
    for slot in range(2):
        assert entries(state, slot) == dict.fromkeys(range(VOCAB), (1, 0.0, 0))


def test_an_output_that_no_rule_counts_takes_no_room() -> None:
    state = SlotState(num_slots=2, vocab_size=VOCAB, touched_capacity=4)
    state.admit(0, SlotParams(key=0, min_tokens=3), TouchedTokens.of([1, 2], 1.0))
    state.admit(1, SlotParams(key=0, repetition=1.1), TouchedTokens.of())
    for token in range(VOCAB):
        state.advance([0, 1], [token, token])
    assert state.n_touch.tolist() == [2, VOCAB]
    assert state.position.tolist() == [VOCAB, VOCAB]
    state.retract(0, [VOCAB - 1])
    assert state.position.tolist() == [VOCAB - 1, VOCAB]


def test_many_tokens_at_once_are_as_many_one_by_one() -> None:
    rng = np.random.default_rng(5)
    params = replace(
        full_params(),
        ngram=3,
        dry_multiplier=0.8,
        presence_window=4,
        chain=((Stage.MIROSTAT, 3.0, 0.1),),
    )
    singly, at_once = (SlotState(num_slots=2, vocab_size=VOCAB) for _ in range(2))
    for state in (singly, at_once):
        state.admit(1, params, TouchedTokens.of([1, 2], 1.0), instruction=[7, 3], breakers=[9])
        state.mirostat.following[1] = 4.5
    for count in (30, 5, 200, 6):
        tokens = rng.integers(0, 12, count).tolist()
        for token in tokens:
            singly.advance([1], [token])
        at_once.append([1], [tokens])
        here, there = tensors(singly), tensors(at_once)
        assert entries(singly, 1) == entries(at_once, 1)
        assert torch.equal(here["position"], there["position"])
        length = int(singly.position[1])
        limits = [state.mirostat.limit[1, : length + 1] for state in (singly, at_once)]
        assert torch.equal(*limits)
        assert int(singly.history.length[1]) == int(at_once.history.length[1])
        for name in ("tokens", "run"):
            tables = [getattr(state.history, name)[1, : length + 2] for state in (singly, at_once)]
            assert torch.equal(*tables), name
        assert torch.equal(singly.history.unbroken, at_once.history.unbroken)


def test_a_long_forced_text_takes_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody waits while a choice says what it must."""
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    state.admit(0, replace(full_params(), ngram=3), TouchedTokens.of())
    monkeypatch.setattr(state, "advance", None)
    state.append([0], [[1, 2, 3] * 100])
    assert int(state.position[0]) == 300


def test_retract_undoes_advance_to_the_bit() -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB, touched_capacity=64)
    state.admit(0, full_params(), TouchedTokens.of([1, 2], 1.0))
    before = {name: table.clone() for name, table in tensors(state).items()}
    tokens = [1, 5, 5, 9, 2, 5]
    for token in tokens:
        state.advance([0], [token])
    state.retract(0, tokens[3:])
    state.retract(0, tokens[:3])
    for name, table in before.items():
        assert torch.equal(getattr(state, name), table), name


def test_retracting_what_was_not_said_is_an_error() -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    state.admit(0, SlotParams(key=0, frequency=1.0), TouchedTokens.of([1]))
    for token in (1, 2):
        with pytest.raises(InvalidTouchedTokens, match="not in the output"):
            state.retract(0, [token])


@pytest.mark.parametrize("ids", [[-1], [VOCAB], [0, VOCAB + 7]])
def test_tokens_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    with pytest.raises(InvalidTouchedTokens, match="must lie in"):
        state.admit(0, SlotParams(key=0), TouchedTokens.of(ids))


def test_touched_tokens_given_twice_to_the_slot_are_refused() -> None:
    state = SlotState(num_slots=1, vocab_size=VOCAB)
    twice = TouchedTokens(torch.tensor([3, 3]), torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(InvalidTouchedTokens, match="unique"):
        state.admit(0, SlotParams(key=0), twice)
    assert int(state.n_touch[0]) == 0
    with pytest.raises(InvalidTouchedTokens, match="differ in length"):
        TouchedTokens.of([1, 2], [0.5])


@pytest.mark.parametrize(
    "wrong",
    [
        {"chain": ((Stage.TOP_K, 1.0, 0.0),) * (MAX_STAGES + 1)},
        {"chain": ((Stage.TEMPERATURE, 1.0, 0.0),) * 2},
        {"chain": ((Stage.TEMPERATURE, 1.0, 0.0), (Stage.DYNAMIC_TEMPERATURE, 0.5, 1.0))},
        {"eos_ramp_over": 0},
        {"dry_allowed": 0},
        {"dry_base": 0.9},
        {"repetition": 0.0},
        {"repetition": float("nan")},
    ],
)
def test_numbers_a_slot_cannot_hold_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSlotParams) as caught:
        SlotParams(key=0, **wrong)  # type: ignore[arg-type]
    assert isinstance(caught.value, KernelError)
    assert caught.value.code == "INTERNAL"
    assert caught.value.reason == "INVALID_SLOT_PARAMS"
    assert caught.value.field is None
    assert caught.value.metadata == {}


def test_stage_numbers_are_public() -> None:
    assert {stage.name: int(stage) for stage in Stage} == {
        "NONE": 0,
        "TEMPERATURE": 1,
        "TOP_K": 2,
        "TOP_P": 3,
        "MIN_P": 4,
        "TYPICAL": 5,
        "TOP_N_SIGMA": 6,
        "EPSILON": 7,
        "ETA": 8,
        "XTC": 9,
        "DYNAMIC_TEMPERATURE": 10,
        "MIROSTAT": 11,
    }
