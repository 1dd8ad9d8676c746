"""How far control moved rows: statistics of whole rows and of one token each, before and after."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP, group_max

# Rows taken at a time: their temporaries stay in the cache.
_ROWS = 2
# Stands for -inf where a zero weight multiplies it.
_FAR = -1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class RowShift:
    """Statistics of rows, [B] each; logarithms are natural."""

    raw_argmax: Tensor  # int64, the lowest id among the best
    raw_logprob: Tensor  # float64
    raw_rank: Tensor  # int64, 1 + the number of tokens strictly better
    controlled_logprob: Tensor
    controlled_rank: Tensor
    entropy: Tensor  # float64, of the raw row
    divergence: Tensor  # float64, KL(controlled || raw)


def row_shift(raw: Tensor, controlled: Tensor, inverse: Tensor, tokens: Tensor) -> RowShift:
    """Compare rows [B, V] before and after control, and what both say of `tokens` [B].

        p = softmax(raw), q = softmax(controlled * inverse)
        entropy = -sum p ln p, divergence = sum q (ln q - ln p)

    `inverse` [B] is the inverse temperature. Both rows hold a finite logit; a token that is -inf
    in the raw row is so in the controlled one.
    """
    parts = [
        _statistics(
            raw[at : at + _ROWS],
            controlled[at : at + _ROWS],
            inverse[at : at + _ROWS, None],
            tokens[at : at + _ROWS, None],
        )
        for at in range(0, len(raw), _ROWS)
    ]
    raw_logprob, logprob, raw_rank, rank, entropy, divergence = torch.cat(parts, 1)
    return RowShift(
        raw_argmax=_argmax(raw),
        raw_logprob=raw_logprob,
        raw_rank=raw_rank.long(),
        controlled_logprob=logprob,
        controlled_rank=rank.long(),
        entropy=entropy,
        divergence=divergence.clamp(min=0.0),
    )


def _statistics(raw: Tensor, controlled: Tensor, inverse: Tensor, tokens: Tensor) -> Tensor:
    """Return both log-probabilities, both ranks, the entropy and the divergence: [6, n] float64."""
    raw_best, best = raw.amax(1, keepdim=True), controlled.amax(1, keepdim=True)
    raw_value, value = raw.gather(1, tokens), controlled.gather(1, tokens)
    raw_rank = 1 + (raw > raw_value).sum(1, dtype=torch.int32)
    rank = 1 + (controlled > value).sum(1, dtype=torch.int32)
    s = raw - raw_best
    p = s.exp()
    s.clamp_(min=_FAR)
    t = (controlled - best).mul_(inverse)
    q = t.exp()
    t.clamp_(min=_FAR)
    mass, raw_moment = p.sum(1).double(), torch.linalg.vecdot(p, s).double()
    weight, moment = q.sum(1).double(), torch.linalg.vecdot(q, t).double()
    crossed = torch.linalg.vecdot(q, s).double()
    raw_norm, norm = mass.log(), weight.log()
    return torch.stack(
        (
            (raw_value - raw_best).squeeze(1).double() - raw_norm,
            ((value - best) * inverse).squeeze(1).double() - norm,
            raw_rank.double(),
            rank.double(),
            raw_norm - raw_moment / mass,
            (moment - crossed) / weight - norm + raw_norm,
        )
    )


def _argmax(rows: Tensor) -> Tensor:
    """Return the lowest id among the greatest of each row, through its groups' maxima."""
    maxima = group_max(rows)
    best = maxima.amax(1, keepdim=True)
    group = (maxima == best).int().argmax(1, keepdim=True)
    token = group * GROUP + torch.arange(GROUP, device=rows.device)
    is_best = (rows.gather(1, token.clamp(max=rows.shape[1] - 1)) == best).int()
    return token.gather(1, is_best.argmax(1, keepdim=True)).squeeze(1)
