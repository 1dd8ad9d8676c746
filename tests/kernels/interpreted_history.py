"""Run by its test under Triton's interpreter: what would repeat a history, against brute force."""

from tests.kernels import interpreter  # noqa: F401, I001

from typing import Any

import numpy as np
import torch
from tests.kernels.oracle import Array

from bosal_kernels import CombineState, SlotParams, SlotState, TouchedTokens, control
from bosal_kernels.fused.control_reduce import control_reduce
from bosal_kernels.fused.history_scan import history_scan


def longest(history: list[int], token: int, breakers: list[int], window: int) -> int:
    """The longest end of the history that the token has followed, by comparing all of them."""
    if token in breakers:
        return 0
    seen = history[-window:] if window else history
    best = 0
    for place in range(len(seen)):
        if seen[place] != token:
            continue
        length = 0
        while length < place and seen[place - 1 - length] == seen[-1 - length]:
            if seen[-1 - length] in breakers:
                break
            length += 1
        best = max(best, length)
    return best


def check(lengths: tuple[int, ...], breakers: list[int], *, has_read: bool = True) -> None:
    vocab_size = 12
    state = SlotState(num_slots=4, vocab_size=vocab_size, packs_touched=True, touched_capacity=2)
    rng = np.random.default_rng(sum(lengths))
    slots, histories = [2, 0, 3], []
    numbers: tuple[dict[str, Any], ...] = (
        {"ngram": 3, "dry_multiplier": 0.7, "dry_allowed": 1},
        {"dry_multiplier": 1.5, "dry_allowed": 2, "dry_window": 30, "dry_base": 1.2},
        {"ngram": 2},
    )
    for slot, length, params in zip(slots, lengths, numbers, strict=True):
        history = rng.integers(0, 5, length).tolist()
        read = length // 2 if has_read else 0
        choice = SlotParams(key=slot, **params)
        state.admit(
            slot, choice, TouchedTokens.of([9], 0.5), instruction=history[:read], breakers=breakers
        )
        for token in history[read:]:
            state.advance([slot], [token])
        histories.append(history)
    index = torch.tensor(slots)
    runs, repeats = history_scan(state, index)
    for row, (slot, history, params) in enumerate(zip(slots, histories, numbers, strict=True)):
        n, allowed = params.get("ngram", 0), params.get("dry_allowed", 2)
        grams = {tuple(history[i : i + n]) for i in range(len(history) - n + 1)}
        # Every token of the history is listed, so that it can be found.
        assert set(history) <= set(state.t_tok[slot, : int(state.n_touch[slot])].tolist())
        for token in {9, *history}:
            place = state.t_pos[slot, token]
            length = longest(history, token, breakers, int(params.get("dry_window", 0)))
            is_penalised = "dry_multiplier" in params and length >= allowed
            assert int(runs[row, place]) == (length if is_penalised else 0)
            ends = n >= 2 and len(history) >= n - 1
            gram = (*history[len(history) - n + 1 :], token) if ends else ()
            assert bool(repeats[row, place]) == (ends and gram in grams)
    # And the penalties and masks that come of it are the torch path's.
    z: Array = rng.normal(0, 2, (3, vocab_size)).astype(np.float32)
    wanted = control(torch.from_numpy(z.copy()), state, index)
    depths = torch.ones(3, dtype=torch.int32)
    reduced = control_reduce(
        torch.from_numpy(z),
        state,
        CombineState(4),
        index,
        torch.arange(3),
        depths,
        runs=runs,
        repeats=repeats,
    )
    for row, slot in enumerate(slots):
        count = int(state.n_touch[slot])
        if not wanted.yielded[row]:
            listed = state.t_tok[slot, :count].long()
            assert torch.equal(reduced.shaped[row, :count], wanted.logits[row, listed])


check((0, 1, 2), [])
check((40, 60, 25), [])
check((12, 20, 9), [], has_read=False)
check((40, 60, 1500), [3])
