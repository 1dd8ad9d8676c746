"""Log-probabilities, ranks and best tokens of rows, read through their group maxima."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.floats import descending_key
from bosal_kernels.groups import (
    GROUP,
    GroupedRows,
    group_max,
    sparse_places,
    sum_by_row,
    weights,
)
from bosal_kernels.streams import Combined


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The best tokens of rows, best first; a row that has or asks fewer is padded by -1 and NaN."""

    ids: Tensor  # [R, n] int64
    logprobs: Tensor  # [R, n] float32

    def at(self, rows: Tensor, is_asked: Tensor) -> Self:
        """Return the tokens of rows [k], padding where not asked for, [k, n]."""
        return type(self)(
            torch.where(is_asked, self.ids[rows], -1),
            torch.where(is_asked, self.logprobs[rows], torch.nan),
        )

    def widened(self, width: int) -> Self:
        """Return the same tokens padded to a width."""
        missing = (0, width - self.ids.shape[1])
        return type(self)(
            torch.nn.functional.pad(self.ids, missing, value=-1),
            torch.nn.functional.pad(self.logprobs, missing, value=torch.nan),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """What remains known of rows after they are edited in place."""

    rows: Tensor  # [R] their place in the batch
    wanted: Tensor  # [R] how many best tokens they ask for
    log_normalizer: Tensor  # [R] float64
    top: TopTokens
    touched: Tensor  # [R, W] token ids
    values: Tensor  # [R, W] their values before the edits
    valid: Tensor  # [R, W]
    # [R, V] the rows themselves where more was edited than what is touched, or another row was:
    # under a mask of legal tokens, and of coupled streams the bases.
    base: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """Tokens of several rows in one list, row by row and best first."""

    row: Tensor  # [n]
    rank: Tensor  # [n], from 0
    token: Tensor  # [n]
    value: Tensor  # [n]


def best_tokens(rows: GroupedRows, which: Tensor, counts: Tensor) -> Ranked:
    """Return the `counts` [k] best finite tokens of rows `which` [k] by (value desc, id asc)."""
    row, token, value = _in_order(rows, which, counts)
    start = torch.searchsorted(row, torch.arange(len(which), device=row.device))
    rank = torch.arange(len(row), device=row.device) - start[row]
    kept = rank < counts[row]
    return Ranked(row[kept], rank[kept], token[kept], value[kept])


def _in_order(rows: GroupedRows, which: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List tokens of rows `which` [k], the `counts` best of each among them, all [n].

    By (row, value desc, id asc): the row's place in `which`, the id and the value. The n best
    tokens lie in the groups whose maximum reaches the n-th largest group maximum.
    """
    maxima = rows.maxima[which]
    deepest = min(int(counts.max()), rows.num_groups)
    if deepest < 1:
        return which[:0], which[:0], maxima.new_empty(0)
    floor = maxima.topk(deepest).values.gather(1, counts[:, None].clamp(1, deepest) - 1)
    # A row that asks more tokens than there are groups reads all of them.
    floor = floor.masked_fill_(counts[:, None] > rows.num_groups, -torch.inf)
    row, group = ((maxima >= floor) & (maxima > -torch.inf)).nonzero(as_tuple=True)
    floor = floor[row].clamp_(min=torch.finfo(torch.float32).min)
    found = []
    for span, values in rows.chunks(which[row], group):
        place, lane = sparse_places(values >= floor[span])
        entry = torch.add(lane, place, alpha=GROUP)
        token = lane.add_(group[span].index_select(0, place), alpha=GROUP)
        found.append((row[span].index_select(0, place), token, values.take(entry)))
    row, token, value = (
        found[0] if len(found) == 1 else (torch.cat(part) for part in zip(*found, strict=True))
    )
    # Stable, and tokens of a row are listed by id: ties keep the lowest id first.
    order = ((row << 32) | descending_key(value)).argsort(stable=True)
    return row[order], token[order], value[order]


def log_normalizer(rows: GroupedRows, which: Tensor, inverse: Tensor, maximum: Tensor) -> Tensor:
    """Return ln sum exp(z * inverse) of whole rows, float64 [k]; inverse and maximum are [k]."""
    row, group = (rows.maxima[which] > -torch.inf).nonzero(as_tuple=True)
    sums = []
    for span, values in rows.chunks(which[row], group):
        of_row = row[span]
        scaled = values.sub_(maximum[of_row, None]).mul_(inverse[of_row, None])
        sums.append(weights(scaled).sum(1))
    mass = sum_by_row(row, group, sums, (len(which), rows.num_groups))
    return mass.log() + maximum.double() * inverse.double()


def count_above(rows: GroupedRows, which: Tensor, value: Tensor) -> Tensor:
    """Return how many tokens of rows `which` [k] exceed `value` [k]."""
    row, group = (rows.maxima[which] > value[:, None]).nonzero(as_tuple=True)
    total = torch.zeros_like(which)
    for span, values in rows.chunks(which[row], group):
        above = (values > value[row[span], None]).sum(1)
        total.index_add_(0, row[span], above)
    return total


def top_tokens(best: Ranked, log_normalizer: Tensor, inverse: Tensor, width: int) -> TopTokens:
    """Lay out ranked tokens as a table with their log-probabilities."""
    shape = (len(log_normalizer), width)
    device = log_normalizer.device
    ids = torch.full(shape, -1, dtype=torch.int64, device=device)
    logprobs = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
    ids[best.row, best.rank] = best.token
    scaled = best.value.double() * inverse.double()[best.row]
    logprobs[best.row, best.rank] = (scaled - log_normalizer[best.row]).float()
    return TopTokens(ids, logprobs)


def raw_rows(
    logits: Tensor,
    rows: Tensor,
    wanted: Tensor,
    touched: Tensor,
    values: Tensor,
    valid: Tensor,
    combined: Combined | None = None,
    *,
    is_masked: bool = False,
) -> RawRows:
    """Summarise `rows` of logits [B, V], or their base streams', before they are edited.

    `is_masked` says that other than touched tokens are about to be edited too.
    """
    base = None
    source, which = logits, rows
    if combined is not None and combined.is_coupled:
        source = base = combined.streams.index_select(0, combined.base[rows])
        which = torch.arange(len(rows), device=rows.device)
    elif is_masked:
        base = logits.index_select(0, rows)
    grouped = GroupedRows(source, group_max(source))
    one = torch.ones(len(rows), dtype=torch.float32, device=logits.device)
    normalizer = log_normalizer(grouped, which, one, grouped.maxima[which].amax(1))
    best = best_tokens(grouped, which, wanted)
    return RawRows(
        rows=rows,
        wanted=wanted,
        log_normalizer=normalizer,
        top=top_tokens(best, normalizer, one, int(wanted.max())),
        touched=touched,
        values=values,
        valid=valid,
        base=base,
    )
