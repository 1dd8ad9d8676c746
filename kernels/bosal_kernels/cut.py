"""Exact prefix cuts of many tokens without sorting: a radix search over 8-bit digits."""

import torch
from torch import Tensor

_DIGIT_BITS = 8
_BINS = 1 << _DIGIT_BITS


def last_kept(row: Tensor, key: Tensor, weight: Tensor, target: Tensor, *, key_bits: int) -> Tensor:
    """Return the place of each row's last kept token when tokens are taken until a target.

    Tokens [m] come row by row and by id; they are taken by (key asc, id asc), and one is kept while
    the weight taken before it is less than its row's target [R]; the first is always kept. Equal
    keys have equal weights. Every row has a token. Sums are float64, in the order of the list.
    """
    num_rows = len(target)
    place = torch.arange(len(row), device=row.device)
    taken = torch.zeros(num_rows, dtype=torch.float64, device=row.device)
    for shift in range(key_bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        if len(row) == num_rows:
            break
        digit = (key >> shift) & (_BINS - 1)
        bin_ = row * _BINS + digit
        shape = (num_rows, _BINS)
        filled = torch.bincount(bin_, minlength=num_rows * _BINS).view(shape) > 0
        mass = torch.bincount(bin_, weight, minlength=num_rows * _BINS).view(shape)
        before = torch.nn.functional.pad(mass.cumsum(1)[:, :-1], (1, 0)) + taken[:, None]
        reached = filled & (before < target[:, None])
        last = _BINS - 1 - reached.flip(1).int().argmax(1)
        chosen = torch.where(reached.any(1), last, filled.int().argmax(1))
        taken = before.gather(1, chosen[:, None]).squeeze(1)
        active = digit == chosen[row]
        row, key, weight, place = row[active], key[active], weight[active], place[active]
    start = torch.searchsorted(row, torch.arange(num_rows, device=row.device))
    rank = torch.arange(len(row), device=row.device) - start[row]
    kept = (rank == 0) | (taken[row] + rank * weight < target[row])
    return torch.full_like(start, -1).scatter_reduce_(0, row[kept], place[kept], "amax")
