"""Log-probabilities of given tokens under given rows, with the best tokens: the torch path."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_kernels.groups import GroupedRows, group_max
from bosal_kernels.logprobs import (
    TopTokens,
    best_tokens,
    count_above,
    log_normalizer,
    top_tokens,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLogprobs:
    """What rows say of a token each, and which they like best.

    A row that is no distribution (NaN, +inf, nothing finite) has NaN, rank 0 and no best tokens; a
    token of -1 has NaN and rank 0.
    """

    logprobs: Tensor  # [R] float32
    log_normalizers: Tensor  # [R] float32
    ranks: Tensor  # [R] int64, 1 + the number of greater logits
    top: TopTokens  # [R, n]


def row_logprobs(logits: Tensor, tokens: Tensor, n: int = 0) -> RowLogprobs:
    """log p(t) = z[t] - ln sum_u exp(z[u]) for rows z [R, V] of any float type, tokens [R] int64.

    And the n best tokens of each row by (z desc, id asc).
    """
    rows = logits.float()
    grouped = GroupedRows(rows, group_max(rows))
    row_max = grouped.maxima.amax(1)
    is_sound = (row_max > -torch.inf) & (row_max < torch.inf)
    which = is_sound.nonzero().squeeze(1)
    one = torch.ones_like(row_max)
    normalizer = torch.full_like(row_max, torch.nan, dtype=torch.float64)
    normalizer[which] = log_normalizer(grouped, which, one[which], row_max[which])
    value = rows.gather(1, tokens.clamp(min=0)[:, None]).squeeze(1)
    rank = torch.zeros_like(tokens)
    rank[which] = 1 + count_above(grouped, which, value[which])
    is_given = tokens >= 0
    logprob = (value.double() - normalizer).float().masked_fill(~is_given, torch.nan)
    best = best_tokens(grouped, torch.arange(len(rows), device=rows.device), is_sound.long() * n)
    return RowLogprobs(
        logprobs=logprob,
        log_normalizers=normalizer.float(),
        ranks=rank * is_given,
        top=top_tokens(best, normalizer, one, n),
    )
