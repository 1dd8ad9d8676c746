"""Histories by slot against brute force, whatever is appended and taken back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operations import lines_executed

from bosal_kernels import runs, suffixes
from bosal_kernels.history import HistoryTable
from bosal_kernels.suffixes import suffix_runs

VOCAB = 6


def brute_runs(history: list[int]) -> list[int]:
    runs = []
    for place in range(len(history) + 1):
        run = 0
        while run < place and history[place - run - 1] == history[len(history) - run - 1]:
            run += 1
        runs.append(run)
    return runs


def periodic(period: list[int], length: int, changes: list[int]) -> list[int]:
    history = (period * length)[:length]
    for place in changes:
        if place < length:
            history[place] = 3
    return history


def fibonacci(length: int, changes: list[int]) -> list[int]:
    one, other = [0], [0, 1]
    while len(other) < length:
        one, other = other, other + one
    return periodic(other, length, changes)


changes = st.lists(st.integers(0, 300), max_size=4)
histories = (
    st.lists(st.integers(0, 2), max_size=40)
    | st.builds(periodic, st.lists(st.integers(0, 2), min_size=1), st.integers(0, 300), changes)
    | st.builds(fibonacci, st.integers(0, 300), changes)
)


@settings(max_examples=300)
@given(histories, st.sampled_from([1, 400]))
def test_runs_are_the_common_suffixes(history: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # With 1, whatever repeats itself more often is looked at token by token.
        patch.setattr(suffixes, "_MAX_COMPARED", most)
        assert suffix_runs(np.array(history, np.int32)).tolist() == brute_runs(history)[:-1]


@pytest.mark.parametrize("is_for_kernels", [False, True])
def test_any_steps_in_any_slots_leave_what_a_fresh_start_would(is_for_kernels: bool) -> None:
    rng = np.random.default_rng(3)
    table = HistoryTable(3, VOCAB, torch.device("cpu"), is_for_kernels=is_for_kernels)
    live: dict[int, list[int]] = {}
    breakers = {0: [], 1: [2], 2: [0, 4]}
    for _ in range(600):
        action = rng.choice(["admit", "free", "append", "retract"], p=[0.06, 0.03, 0.76, 0.15])
        slot = int(rng.integers(3))
        if action == "admit":
            table.free(slot)
            live[slot] = rng.integers(0, 3, rng.integers(0, 90)).tolist()
            table.admit(slot, live[slot], breakers[slot])
        elif action == "free":
            table.free(slot)
            live.pop(slot, None)
        elif action == "append" and live:
            chosen = rng.permutation(list(live))[: rng.integers(1, 4)]
            tokens = rng.integers(0, VOCAB if rng.random() < 0.2 else 2, len(chosen))
            table.append(chosen.tolist(), tokens.tolist())
            for each, token in zip(chosen.tolist(), tokens.tolist(), strict=True):
                live[each].append(token)
        elif action == "retract" and slot in live:
            count = int(rng.integers(0, len(live[slot]) + 1)) % 7
            table.retract(slot, count)
            live[slot] = live[slot][: len(live[slot]) - count]
        assert table.is_used == bool(live)
        for each in range(3):
            history = live.get(each, [])
            length = len(history)
            assert int(table.length[each]) == length
            assert table.tokens[each, :length].tolist() == history
            assert (table.tokens[each, length:] == -1).all()
            broken = [at for at, token in enumerate(history) if token in breakers[each]]
            assert int(table.unbroken[each]) == length - 1 - max(broken, default=-1)
            if each in live:
                assert table.run[each, :length].tolist() == brute_runs(history)[:length]
        index = torch.tensor(sorted(live), dtype=torch.int64)
        ends = table.earlier_ends(index, torch.full_like(index, 2))
        found = set(zip(ends.slot.tolist(), ends.place.tolist(), ends.run.tolist(), strict=True))
        assert found == {
            (each, place, run)
            for each, history in live.items()
            for place, run in enumerate(brute_runs(history)[:-1])
            if run >= 2
        }


@pytest.mark.parametrize("is_for_kernels", [False, True])
def test_what_is_taken_back_is_all_that_taking_back_looks_at(is_for_kernels: bool) -> None:
    rng = np.random.default_rng(5)
    histories = [rng.integers(0, VOCAB, length).tolist() for length in (1_000, 30_000)]
    counts = []
    for history in histories:
        table = HistoryTable(1, VOCAB, torch.device("cpu"), is_for_kernels=is_for_kernels)
        table.admit(0, history, [0, 4])
        for token in (1, 5, 2):
            table.append([0], [token])
        with lines_executed() as count:
            table.retract(0, 3)
        counts.append(count.lines)
        assert table.run[0, : len(history)].tolist() == suffix_runs(np.array(history)).tolist()
    # How long the longest ends are varies a little.
    assert counts[1] < 1.5 * counts[0] < 1_000


def test_choices_that_begin_alike_share_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = []

    def counted(history: suffixes.Ints) -> suffixes.Ints:
        scanned.append(len(history))
        return suffix_runs(history)

    monkeypatch.setattr(runs, "suffix_runs", counted)
    table = HistoryTable(17, VOCAB, torch.device("cpu"))
    instruction = tuple(np.random.default_rng(6).integers(0, VOCAB, 5_000).tolist())
    with lines_executed() as count:
        for slot in range(16):
            table.admit(slot, instruction, [2])
    assert scanned == [5_000]
    # Not one for each token.
    assert count.lines < 5_000
    table.append([3], [1])
    table.admit(16, instruction[1:], [2])
    for slot in range(17):
        history = [*instruction, 1] if slot == 3 else list(instruction)[slot == 16 :]
        assert table.run[slot, : len(history)].tolist() == brute_runs(history)[:-1]
