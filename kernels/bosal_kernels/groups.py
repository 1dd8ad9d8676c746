"""Rows of a vocabulary seen as groups of 64 tokens: maxima, reading, weights and row sums."""

from collections.abc import Iterator

import torch
from torch import Tensor

GROUP = 64
_LOG2E = 1.4426950408889634
# Groups read at a time: they stay in the cache, and no large tensor is ever allocated.
_CHUNK = 2044
# Groups per exponential call. Torch splits larger tensors over threads at any element, and the
# element loop that finishes a thread's share rounds exp2 differently from the vector loop.
_EXP_CHUNK = 511


def group_max(rows: Tensor) -> Tensor:
    """Return the maxima of 64-token groups, [B, V] -> [B, ceil(V / 64)]; NaN wins."""
    num_full, rest = divmod(rows.shape[1], GROUP)
    parts = []
    if num_full:
        parts.append(rows[:, : num_full * GROUP].view(-1, num_full, GROUP).amax(2))
    if rest:
        parts.append(rows[:, num_full * GROUP :].amax(1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class GroupedRows:
    """Rows padded to whole groups with -inf, with their group maxima.

    The padding is a copy in `scratch` [>= B, NG * 64], whose columns beyond the vocabulary hold
    -inf; rows that need none are used as they are.
    """

    def __init__(self, rows: Tensor, maxima: Tensor, scratch: Tensor) -> None:
        self.maxima = maxima  # [B, NG]
        self.num_rows, self.num_groups = maxima.shape
        vocab_size = rows.shape[1]
        if vocab_size % GROUP:
            padded = scratch[: self.num_rows]
            padded[:, :vocab_size] = rows
            rows = padded
        self.values = rows  # [B, NG * 64]
        self._blocks = rows.view(-1, GROUP)

    def read(self, row: Tensor, group: Tensor) -> Tensor:
        """Return the values of groups, [n, 64]."""
        return self._blocks.index_select(0, row * self.num_groups + group)

    def chunks(self, row: Tensor, group: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the values of many groups piece by piece: their span and values [n, 64]."""
        place = row * self.num_groups + group
        if len(place) <= _CHUNK:
            yield slice(None), self._blocks.index_select(0, place)
            return
        for start in range(0, len(place), _CHUNK):
            span = slice(start, start + _CHUNK)
            yield span, self._blocks.index_select(0, place[span])

    def at(self, row: Tensor, token: Tensor) -> Tensor:
        """Return single values; the arguments broadcast."""
        return self.values.view(-1)[row * self.values.shape[1] + token]


def weights(scaled: Tensor) -> Tensor:
    """Return exp of centred, tempered logits, [n, 64] float32 -> the same; -inf gives 0.

    The result of an element never depends on its place or on the other elements.
    """
    powers = scaled * _LOG2E
    for start in range(0, len(powers), _EXP_CHUNK):
        powers[start : start + _EXP_CHUNK].exp2_()
    return powers


def sum_by_row(row: Tensor, group: Tensor, sums: list[Tensor], shape: tuple[int, int]) -> Tensor:
    """Sum the listed group sums by row, float64 [R]; groups not listed count 0.

    Every group has its place in its row and a row is summed from left to right, so its sum depends
    neither on which other groups nor on which other rows are listed, and it never falls when a
    group's sum rises.
    """
    table = torch.zeros(shape, dtype=torch.float64, device=row.device)
    if sums:
        table[row, group] = (sums[0] if len(sums) == 1 else torch.cat(sums)).double()
    return table.cumsum(1)[:, -1]
