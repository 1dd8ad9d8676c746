"""Draws the next token of one model's groups from their logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_decoding.pipeline import Pipeline
from bosal_kernels import Logprobs
from bosal_kernels import TopTokens as TopTable
from bosal_server.engine.choice import PositionLogprobs
from bosal_server.engine.group import StreamGroup
from bosal_server.engine.request import TopTokens
from bosal_server.engine.scheduler_step import SchedulerStep

# By the bits of `Selection.yielded`.
_YIELDED = {
    0: (),
    1: ("min_tokens",),
    2: ("banned_strings",),
    3: ("min_tokens", "banned_strings"),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """What came out for one group; token -1 means that nothing legal was left."""

    token: int
    is_faulty: bool  # the model gave no usable row
    yielded: tuple[str, ...]
    logprobs: PositionLogprobs | None


def draw(pipeline: Pipeline, rows: Tensor, groups: Sequence[StreamGroup]) -> list[Draw]:
    """Combine, control, sample and commit; `rows` [sum of streams, V] are group after group."""
    slots = [group.slot for group in groups]
    combined = pipeline.combine(rows, [len(group.streams) for group in groups])
    selection = pipeline.sample(pipeline.apply(combined, slots))
    tokens, yielded, invalid = torch.stack(
        (selection.tokens, selection.yielded, selection.invalid.long())
    ).tolist()
    drawn = [(slot, [token]) for slot, token in zip(slots, tokens, strict=True) if token >= 0]
    pipeline.commit([slot for slot, _ in drawn], [token for _, token in drawn])
    logprobs = {} if selection.logprobs is None else _by_row(selection.logprobs)
    return [
        Draw(tokens[i], bool(invalid[i]), _YIELDED[yielded[i]], logprobs.get(i))
        for i in range(len(groups))
    ]


def gather_rows(
    step: SchedulerStep, members: Sequence[int], logits: Mapping[str, Tensor]
) -> Tensor:
    """Return the rows of the ready groups `members`, group after group, stream after stream."""
    places = [
        (stream.model, row)
        for i in members
        for stream, row in zip(step.ready[i].streams, step.rows[i], strict=True)
    ]
    base = places[0][0]
    if all(model == base for model, _ in places):
        rows = logits[base]
        if [row for _, row in places] == list(range(len(rows))):
            return rows
        return rows[torch.tensor([row for _, row in places], device=rows.device)]
    # Heads of one vocabulary may be padded differently.
    width = min(logits[model].shape[1] for model, _ in places)
    device = logits[base].device
    return torch.stack([logits[model][row, :width].to(device) for model, row in places])


def _by_row(logprobs: Logprobs) -> dict[int, PositionLogprobs]:
    top_raw = _top_lists(logprobs.top_raw)
    top_controlled = _top_lists(logprobs.top_controlled)
    columns = zip(
        logprobs.raw_logprob.tolist(),
        logprobs.raw_rank.tolist(),
        logprobs.controlled_logprob.tolist(),
        logprobs.controlled_rank.tolist(),
        top_raw,
        top_controlled,
        strict=True,
    )
    return {
        row: PositionLogprobs(*values)
        for row, values in zip(logprobs.rows.tolist(), columns, strict=True)
    }


def _top_lists(table: TopTable) -> list[TopTokens]:
    """Cut a padded table into one list per row."""
    lists = []
    for ids, values in zip(table.ids.tolist(), table.logprobs.tolist(), strict=True):
        count = ids.index(-1) if -1 in ids else len(ids)
        lists.append(TopTokens(ids[:count], values[:count]))
    return lists
