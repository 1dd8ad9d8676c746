"""The rows of a step's logits that belong to its groups."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from bosal_kernels import on_device
from bosal_server.engine.group import StreamGroup
from bosal_server.engine.scheduler_step import SchedulerStep


def stream_rows(rows: Tensor, groups: Sequence[StreamGroup], wanted: Sequence[int]) -> Tensor:
    """Copy the rows of some groups' streams, before anything is done to them."""
    if not wanted:
        return rows[:0]
    begins = list(accumulate((len(group.active) for group in groups), initial=0))
    places = [place for i in wanted for place in range(begins[i], begins[i + 1])]
    return rows[on_device(places, rows.device)]


def gather_rows(
    step: SchedulerStep, members: Sequence[int], logits: Mapping[str, Tensor], *, offset: int = 0
) -> Tensor:
    """Return the rows of the ready groups `members`, group after group, stream after stream.

    Of a group with several rows a stream, those at `offset`.
    """
    base = step.ready[members[0]].streams[0].model
    rows = logits[base]
    if len(step.plans) == 1:
        wanted = [row + offset for i in members for row in step.rows[i]]
        if wanted == list(range(len(rows))):
            return rows
        return rows[on_device(wanted, rows.device)]
    places = [
        (stream.model, row + offset)
        for i in members
        for stream, row in zip(step.ready[i].active, step.rows[i], strict=True)
    ]
    if all(model == base for model, _ in places):
        return rows[on_device([row for _, row in places], rows.device)]
    # Heads of one vocabulary may be padded differently.
    gathered = rows.new_full((len(places), rows.shape[1]), -torch.inf)
    for name in dict.fromkeys(model for model, _ in places):
        which = [i for i, (model, _) in enumerate(places) if model == name]
        own = logits[name]
        from_rows = on_device([places[i][1] for i in which], own.device)
        width = min(own.shape[1], rows.shape[1])
        where = on_device(which, rows.device)
        gathered[:, :width].index_copy_(0, where, own[from_rows, :width].to(rows))
    return gathered
