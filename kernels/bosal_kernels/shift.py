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
    raw_maxima, maxima = group_max(raw), group_max(controlled)
    raw_best, best = raw_maxima.amax(1), maxima.amax(1)
    parts = [
        _moments(
            raw[at : at + _ROWS],
            controlled[at : at + _ROWS],
            raw_best[at : at + _ROWS, None],
            best[at : at + _ROWS, None],
            inverse[at : at + _ROWS, None],
        )
        for at in range(0, len(raw), _ROWS)
    ]
    raw_norm, norm, entropy, divergence = torch.cat(parts, 1)
    raw_value = raw.gather(1, tokens[:, None]).squeeze(1)
    value = controlled.gather(1, tokens[:, None]).squeeze(1)
    return RowShift(
        raw_argmax=_argmax(raw, raw_maxima, raw_best),
        raw_logprob=(raw_value - raw_best).double() - raw_norm,
        raw_rank=1 + _count_above(raw, raw_maxima, raw_value),
        controlled_logprob=((value - best) * inverse).double() - norm,
        controlled_rank=1 + _count_above(controlled, maxima, value),
        entropy=entropy,
        divergence=divergence.clamp(min=0.0),
    )


def _moments(
    raw: Tensor, controlled: Tensor, raw_best: Tensor, best: Tensor, inverse: Tensor
) -> Tensor:
    """Return ln of both centred sums, the entropy and the divergence: [4, n] float64."""
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
    entropy = raw_norm - raw_moment / mass
    divergence = (moment - crossed) / weight - norm + raw_norm
    return torch.stack((raw_norm, norm, entropy, divergence))


def _argmax(rows: Tensor, maxima: Tensor, best: Tensor) -> Tensor:
    group = (maxima == best[:, None]).int().argmax(1)
    token, _, value = _lanes(rows, torch.arange(len(rows), device=rows.device), group)
    is_best = value == best[:, None]
    return token.gather(1, is_best.int().argmax(1, keepdim=True)).squeeze(1)


def _count_above(rows: Tensor, maxima: Tensor, value: Tensor) -> Tensor:
    """Return how many tokens of each row exceed its `value` [B]."""
    row, group = (maxima > value[:, None]).nonzero(as_tuple=True)
    _, is_real, values = _lanes(rows, row, group)
    above = ((values > value[row, None]) & is_real).sum(1)
    return torch.zeros(len(rows), dtype=torch.int64, device=rows.device).index_add_(0, row, above)


def _lanes(rows: Tensor, row: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of groups [n, 64], which of them exist, and their logits."""
    token = group[:, None] * GROUP + torch.arange(GROUP, device=rows.device)
    is_real = token < rows.shape[1]
    token = token.clamp(max=rows.shape[1] - 1)
    return token, is_real, rows[row[:, None], token]
