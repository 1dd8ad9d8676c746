"""Several draws of one row without replacement: the torch path."""

import torch
from torch import Tensor

from bosal_kernels.noise import gumbel


def gumbel_topk(logits: Tensor, keys: Tensor, positions: Tensor, n: int) -> Tensor:
    """Return the n first tokens by (fl((z - max z) + g) desc, id asc), int64 [R, n].

    z are rows [R, V] of any float type, g the noise of keys and positions [R] int64: the first
    token is the draw of an uncut row, and together they are n draws without replacement. A row
    with fewer finite logits is padded by -1; one with NaN or +inf has none.
    """
    rows = logits.float()
    num_rows, vocab_size = rows.shape
    token = torch.arange(vocab_size, device=rows.device).repeat(num_rows)
    noise = gumbel(
        keys.repeat_interleave(vocab_size), positions.repeat_interleave(vocab_size), token
    )
    row_max = rows.amax(1, keepdim=True)
    score = (rows - row_max) + noise.view(num_rows, vocab_size)
    score = score.masked_fill(rows == -torch.inf, -torch.inf)
    score = score.masked_fill(~(row_max < torch.inf), -torch.inf)
    found = torch.full((num_rows, n), -1, dtype=torch.int64, device=rows.device)
    depth = min(n, vocab_size)
    best, order = score.sort(dim=1, descending=True, stable=True)
    found[:, :depth] = order[:, :depth].masked_fill(best[:, :depth] == -torch.inf, -1)
    return found
