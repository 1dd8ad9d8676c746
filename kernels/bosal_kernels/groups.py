"""Rows of a vocabulary seen as groups of 64 tokens: maxima, reading, weights and fixed sums."""

import torch
from torch import Tensor

GROUP = 64
_LOG2E = 1.4426950408889634
# Groups per exponential call: torch splits larger tensors over threads at any element, and the
# element loop that finishes a thread's share rounds differently from the vector loop.
_GROUPS_PER_CALL = 511


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
    """Rows padded to whole groups with -inf, with their group maxima."""

    def __init__(self, rows: Tensor, maxima: Tensor) -> None:
        self.maxima = maxima  # [R, NG]
        self.num_rows, self.num_groups = maxima.shape
        width = self.num_groups * GROUP
        if rows.shape[1] == width and rows.is_contiguous():
            padded = rows
        else:
            padded = torch.empty((self.num_rows, width), dtype=rows.dtype, device=rows.device)
            padded[:, rows.shape[1] :] = -torch.inf
            padded[:, : rows.shape[1]] = rows
        self.values = padded  # [R, NG * 64]
        self._blocks = padded.view(-1, GROUP)

    def read(self, row: Tensor, group: Tensor) -> Tensor:
        """Return the values of groups, [n, 64]."""
        return self._blocks.index_select(0, row * self.num_groups + group)

    def at(self, row: Tensor, token: Tensor) -> Tensor:
        """Return single values, [n]."""
        return self.values[row, token]


def lanes(group: Tensor) -> Tensor:
    """Return the token ids of groups, [n] -> [n, 64]."""
    return group[:, None] * GROUP + torch.arange(GROUP, device=group.device)


def weights(scaled: Tensor) -> Tensor:
    """Return exp of centred, tempered logits, [n, 64] float32 -> the same; -inf gives 0.

    The result of an element never depends on its place or on the other elements.
    """
    powers = scaled * _LOG2E
    for start in range(0, len(powers), _GROUPS_PER_CALL):
        powers[start : start + _GROUPS_PER_CALL].exp2_()
    return powers


def tree_sum(parts: Tensor) -> Tensor:
    """Sum the last axis in one fixed tree, [R, NG] -> [R]."""
    width = parts.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        folded = parts[..., :half].clone()
        folded[..., : width - half] += parts[..., half:width]
        parts, width = folded, half
    return parts[..., 0]


def descending_key(values: Tensor) -> Tensor:
    """Map float32 to int64 in [0, 2^32) so that greater values come first; -0 equals 0."""
    bits = (values + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    return 0x7FFF_FFFF - ordered.long()


def value_of_descending_key(key: Tensor) -> Tensor:
    """Invert `descending_key`."""
    ordered = (0x7FFF_FFFF - key).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFF_FFFF)).view(torch.float32)
