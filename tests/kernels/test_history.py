"""Histories by slot against brute force, whatever is appended and taken back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bosal_kernels.history import HistoryTable, suffix_runs

VOCAB = 6


def brute_runs(history: list[int]) -> list[int]:
    runs = []
    for place in range(len(history) + 1):
        run = 0
        while run < place and history[place - run - 1] == history[len(history) - run - 1]:
            run += 1
        runs.append(run)
    return runs


@given(st.lists(st.integers(0, 2), max_size=40))
def test_runs_are_the_common_suffixes(history: list[int]) -> None:
    assert suffix_runs(history) == brute_runs(history)


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
