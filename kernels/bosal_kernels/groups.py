"""Rows of a vocabulary seen as groups of 64 tokens: maxima, reading, weights and row sums."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bosal_kernels.transfer import numbered

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
    """Rows read as whole groups, with their group maxima; -inf beyond the vocabulary.

    A group is a window of the flat batch; the rows' last groups may be short.
    """

    def __init__(self, rows: Tensor, maxima: Tensor) -> None:
        rows = rows.contiguous()
        self.values = rows  # [B, V]
        self.maxima = maxima  # [B, NG]
        self.num_rows, self.num_groups = maxima.shape
        self.vocab_size = rows.shape[1]
        self._rest = self.vocab_size % GROUP
        num_windows = rows.numel() - GROUP + 1
        if num_windows > 0:
            self._windows = rows.as_strided((num_windows, GROUP), (1, 1))
        else:
            self._windows = rows.new_full((1, GROUP), -torch.inf)

    def read(self, row: Tensor, group: Tensor) -> Tensor:
        """Return the values of groups, [n, 64]."""
        start = torch.add(row * self.vocab_size, group, alpha=GROUP)
        if not self._rest:
            return self._windows.index_select(0, start)
        values = self._windows.index_select(0, start.clamp_(max=len(self._windows) - 1))
        short = (group == self.num_groups - 1).nonzero().squeeze(1)
        if len(short):
            last = self.values[:, -self._rest :].index_select(0, row[short])
            missing = (0, GROUP - self._rest)
            values[short] = torch.nn.functional.pad(last, missing, value=-torch.inf)
        return values

    def chunks(self, row: Tensor, group: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the values of many groups piece by piece: their span and values [n, 64]."""
        if len(row) <= _CHUNK:
            yield slice(None), self.read(row, group)
            return
        for start in range(0, len(row), _CHUNK):
            span = slice(start, start + _CHUNK)
            yield span, self.read(row[span], group[span])

    def at(self, row: Tensor, token: Tensor) -> Tensor:
        """Return single values; the arguments broadcast."""
        return self.values.take(row * self.vocab_size + token)


def sparse_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """List the few true places of a table in order, bool [n, m]: row and column; m = 8 k."""
    # Eight at a time: most words are empty.
    word = mask.view(torch.int64).view(-1).nonzero().squeeze(1)
    entry, byte = mask.view(-1, 8).index_select(0, word).nonzero(as_tuple=True)
    place = byte.add_(word.index_select(0, entry), alpha=8)
    row = place // mask.shape[1]
    return row, place.sub_(row, alpha=mask.shape[1])


def first_tokens(rows: GroupedRows) -> Tensor:
    """Return the lowest id that has its row's maximum, [B]; any id where that is NaN."""
    row = numbered(rows.num_rows, rows.maxima.device)
    group = first_best(rows.maxima)
    return first_best(rows.read(row, group)).add_(group, alpha=GROUP)


def first_best(table: Tensor) -> Tensor:
    """Return where each row is largest, [n, m] -> [n]; the first among equals."""
    if table.device.type != "cpu":
        return table.argmax(1)
    # On a CPU torch looks at one number at a time.
    return torch.from_numpy(table.numpy().argmax(1))


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
        listed = (sums[0] if len(sums) == 1 else torch.cat(sums)).double()
        table.view(-1).index_copy_(0, row * shape[1] + group, listed)
    return table.cumsum(1)[:, -1]
