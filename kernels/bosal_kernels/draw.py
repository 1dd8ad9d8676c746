"""Draws one token per row: the argmax of scaled logit + Gumbel noise over the kept set, exactly."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP
from bosal_kernels.noise import GroupNoise, pair_noise, token_noise
from bosal_kernels.truncate import Truncation

_NO_TOKEN = torch.iinfo(torch.int64).max
# Of so many neighbouring groups the one that may score most is tried first.
_BUCKET = 8


@dataclass(frozen=True, slots=True)
class _Groups:
    """What the groups of rows can score, [R, NG] each."""

    # Whether any token can be drawn.
    is_open: Tensor
    maxima: Tensor
    # No token of a group scores more.
    bound: Tensor
    noise: GroupNoise
    # Tokens that score all that their group's noise allows, [R, NG / _BUCKET].
    pivot_token: Tensor
    pivot_value: Tensor
    pivot_score: Tensor

    def of(self, which: Tensor) -> Self:
        """Return the groups of rows `which`."""
        return type(self)(
            is_open=self.is_open[which],
            maxima=self.maxima[which],
            bound=self.bound[which],
            noise=self.noise.at(which),
            pivot_token=self.pivot_token[which],
            pivot_value=self.pivot_value[which],
            pivot_score=self.pivot_score[which],
        )


class Draw:
    """A draw in rounds: the best token is tested against the pending top-p, if any.

    A rejected token raises its row's floor past itself: nothing at or behind it is kept.
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        intervals = truncation.intervals
        rows, maxima = intervals.rows, intervals.maxima
        missing = -rows.num_groups % _BUCKET
        if missing:
            maxima = torch.nn.functional.pad(maxima, (0, missing), value=-torch.inf)
        is_open = (maxima >= intervals.low_value[:, None]) & (maxima > -torch.inf)
        best = torch.minimum(maxima, intervals.high_value[:, None]) if intervals.is_cut else maxima
        noise = self._noise(is_open)
        bound = self._scaled(best).add_(noise.bound)
        # The token on which a group's smallest exponential sits scores the group's bound if it is
        # the group's best; at any rate its score is a floor under the winner's.
        pivot = bound.view(len(bound), -1, _BUCKET).argmax(2)
        pivot += torch.arange(0, maxima.shape[1], _BUCKET, device=maxima.device)
        pivot_token = torch.add(noise.lane.gather(1, pivot), pivot, alpha=GROUP)
        pivot_value = rows.at(
            intervals.place[:, None], pivot_token.clamp(max=rows.vocab_size - 1)
        ).masked_fill_(pivot_token >= rows.vocab_size, -torch.inf)
        self._groups = _Groups(
            is_open=is_open,
            maxima=maxima,
            bound=bound,
            noise=noise,
            pivot_token=pivot_token,
            pivot_value=pivot_value,
            pivot_score=self._scaled(pivot_value).add_(noise.bound.gather(1, pivot)),
        )

    def tokens(self) -> Tensor:
        """Return the drawn token of every sampling row, [R]."""
        truncation = self.truncation
        first_token = truncation.intervals.first_token
        which = torch.arange(len(first_token), device=first_token.device)
        drawn, value = self._best(which, self._groups)
        token = drawn
        while True:
            is_pending = truncation.pending_mass[which] != torch.inf
            is_pending &= token != first_token[which]
            place = is_pending.nonzero().squeeze(1)
            if len(place) == 0:
                return drawn
            which, token, value = which[place], token[place], value[place]
            is_rejected = truncation.is_left_out(which, value, token)
            place = is_rejected.nonzero().squeeze(1)
            if len(place) == 0:
                return drawn
            which = which[place]
            truncation.intervals.raise_floor(which, value[place], token[place] - 1)
            token, value = self._best(which, self._groups.of(which))
            drawn[which] = token

    def _noise(self, is_open: Tensor) -> GroupNoise:
        """Return the noise of the open groups, [R, NG]; of others too, or -inf for a bound."""
        truncation = self.truncation
        num_rows, num_groups = is_open.shape
        # Two groups share a random block.
        pairs = is_open.view(num_rows, -1, 2).any(2)
        row, pair = pairs.nonzero(as_tuple=True)
        noise = pair_noise(
            truncation.key.index_select(0, row), truncation.position.index_select(0, row), pair
        )
        place = row * pairs.shape[1] + pair

        def spread(values: Tensor, missing: float) -> Tensor:
            """Lay out what is known of the listed pairs, [n, 2], as a table."""
            table = values.new_full((pairs.numel(), 2), missing)
            return table.index_copy_(0, place, values).view(num_rows, num_groups)

        return GroupNoise(
            smallest=spread(noise.smallest, 0.0),
            bound=spread(noise.bound, -torch.inf),
            lane=spread(noise.lane, 0),
        )

    def _scaled(self, values: Tensor) -> Tensor:
        """Scale [R, n] logits of all rows."""
        truncation = self.truncation
        return (values - truncation.intervals.row_max[:, None]) * truncation.inverse[:, None]

    def _best(self, which: Tensor, groups: _Groups) -> tuple[Tensor, Tensor]:
        """Return the members of rows `which` with the greatest scores, lowest id on ties.

        Their ids and logits, [k] each.
        """
        truncation, intervals = self.truncation, self.truncation.intervals
        is_member = intervals.contains(which[:, None], groups.pivot_token, groups.pivot_value)
        score = groups.pivot_score.masked_fill(~is_member, -torch.inf)
        floor = score.amax(1)
        is_open = groups.is_open & (groups.bound >= floor[:, None])
        is_open &= groups.maxima >= intervals.low_value[which, None]
        place, group = is_open.nonzero(as_tuple=True)
        row, listed = which[place], place * is_open.shape[1] + group
        limit = groups.noise.bound.take(listed)[:, None]
        maximum = intervals.row_max.index_select(0, row)[:, None]
        inverse = truncation.inverse.index_select(0, row)[:, None]
        floor = floor.index_select(0, place)[:, None]
        low = intervals.low_value.index_select(0, row)[:, None]
        found = []
        for span, values in intervals.rows.chunks(intervals.place[row], group):
            scaled = (values - maximum[span]).mul_(inverse[span])
            may_win = (scaled + limit[span] >= floor[span]) & (values >= low[span])
            number, lane = may_win.nonzero(as_tuple=True)
            entry = number * GROUP + lane
            found.append((number + (span.start or 0), lane, values.take(entry), scaled.take(entry)))
        number, lane, value, scaled = (
            found[0] if len(found) == 1 else (torch.cat(part) for part in zip(*found, strict=True))
        )
        place, listed = place.index_select(0, number), listed.index_select(0, number)
        row, token = which[place], group.index_select(0, number) * GROUP + lane
        gumbel = token_noise(
            truncation.key.index_select(0, row),
            truncation.position.index_select(0, row),
            token,
            groups.noise.take(listed),
        )
        is_member = intervals.contains(row, token, value)
        score = (scaled + gumbel).masked_fill_(~is_member, -torch.inf)
        best = torch.full_like(groups.bound[:, 0], -torch.inf)
        best.scatter_reduce_(0, place, score, "amax")
        is_best = is_member & (score == best.index_select(0, place))
        lowest = torch.full_like(which, _NO_TOKEN)
        lowest.scatter_reduce_(0, place, token.masked_fill(~is_best, _NO_TOKEN), "amin")
        return lowest, intervals.rows.at(intervals.place[which], lowest)
