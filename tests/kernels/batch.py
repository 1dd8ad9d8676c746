"""Runs control and selection over rows that each have their own choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tests.kernels.oracle import Array, Chain

from bosal_kernels import (
    Control,
    Selection,
    SlotParams,
    SlotState,
    TouchedTokens,
    control,
    select,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    logits: Array
    chain: Chain = ()
    key: int = 0
    position: int = 0
    logprobs: int = -1
    touched: TouchedTokens = TouchedTokens.of()
    repetition: float = 1.0


def admitted(rows: Sequence[Row], slots: Sequence[int], num_slots: int) -> SlotState:
    state = SlotState(num_slots=num_slots, vocab_size=len(rows[0].logits), touched_capacity=4)
    for slot, row in zip(slots, rows, strict=True):
        params = SlotParams(
            key=row.key,
            chain=tuple(row.chain),
            logprobs=row.logprobs,
            repetition=row.repetition,
        )
        state.admit(slot, params, row.touched)
        state.position[slot] = row.position
    return state


def run(
    rows: Sequence[Row], slots: Sequence[int] | None = None, num_slots: int | None = None
) -> tuple[Control, Selection]:
    places = list(range(len(rows))) if slots is None else list(slots)
    state = admitted(rows, places, num_slots or len(rows))
    logits = torch.from_numpy(np.stack([row.logits for row in rows]))
    where = torch.tensor(places)
    controlled = control(logits, state, where)
    return controlled, select(controlled, state, where)
