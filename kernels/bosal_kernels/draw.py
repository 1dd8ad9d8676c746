"""Draws one token per row: the argmax of scaled logit + Gumbel noise over the kept set, exactly."""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP
from bosal_kernels.noise import GroupNoise, all_group_noise, group_noise, token_noise
from bosal_kernels.truncate import Truncation

# Beyond this share of groups their noise is drawn in pairs, without listing them.
_DENSE_SHARE = 0.4


class Draw:
    """A draw in rounds: the best token is tested against the pending top-p, if any.

    A rejected token raises its row's floor past itself: nothing at or behind it is kept.
    Tensors here hold the sampling rows [R] only.
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        intervals = truncation.intervals
        maxima, row_max = intervals.maxima, intervals.row_max[:, None]
        inverse = truncation.inverse[:, None]
        reach = (maxima >= intervals.low_value[:, None]) & (maxima > -torch.inf)
        self.noise = self._noise(reach)
        # No token of a group scores more than its bound.
        best = maxima
        if intervals.is_cut:
            best = torch.minimum(maxima, intervals.high_value[:, None])
        bound = ((best - row_max) * inverse).add_(self.noise.bound)
        self.bound = bound.masked_fill_(~reach, -torch.inf)
        # The token on which a group's smallest exponential sits scores exactly that much.
        self.pivot_token = self.noise.lane + torch.arange(
            0, maxima.shape[1] * GROUP, GROUP, device=maxima.device
        )
        self.pivot_value = intervals.rows.at(intervals.place[:, None], self.pivot_token)
        score = ((self.pivot_value - row_max) * inverse).add_(self.noise.bound)
        self.pivot_score = score.masked_fill_(~reach, -torch.inf)

    def _noise(self, reach: Tensor) -> GroupNoise:
        key, position = self.truncation.key, self.truncation.position
        row, group = reach.nonzero(as_tuple=True)
        if len(row) > _DENSE_SHARE * reach.numel():
            return all_group_noise(key, position, reach.shape[1])
        found = group_noise(key[row], position[row], group)
        smallest = torch.ones(reach.shape, dtype=torch.float32, device=reach.device)
        bound = torch.full_like(smallest, -torch.inf)
        lane = torch.zeros(reach.shape, dtype=torch.int64, device=reach.device)
        smallest[row, group] = found.smallest
        bound[row, group] = found.bound
        lane[row, group] = found.lane
        return GroupNoise(smallest, bound, lane)

    def tokens(self) -> Tensor:
        """Return the drawn token of every sampling row, [R]."""
        truncation = self.truncation
        intervals = truncation.intervals
        which = torch.arange(len(intervals.place), device=intervals.place.device)
        drawn = torch.full_like(which, -1)
        while True:
            token = self._best(which)
            drawn[which] = token
            is_pending = truncation.pending_mass[which] < torch.inf
            is_pending &= token != intervals.first_token[which]
            which, token = which[is_pending], token[is_pending]
            if len(which) == 0:
                return drawn
            value = intervals.rows.at(intervals.place[which], token)
            inverse = truncation.pending_inverse[which]
            ahead = intervals.mass_ahead(which, inverse, value, token)
            is_rejected = ahead >= truncation.pending_mass[which]
            which = which[is_rejected]
            if len(which) == 0:
                return drawn
            intervals.raise_floor(which, value[is_rejected], token[is_rejected] - 1)

    def _best(self, which: Tensor) -> Tensor:
        """Return the member of each interval [k] with the greatest score, lowest id on ties."""
        truncation, noise = self.truncation, self.noise
        intervals = truncation.intervals
        is_member = intervals.contains(
            which[:, None], self.pivot_token[which], self.pivot_value[which]
        )
        floor = self.pivot_score[which].masked_fill_(~is_member, -torch.inf).amax(1)
        bound = self.bound[which]
        is_open = (bound >= floor[:, None]) & (bound > -torch.inf)
        is_open &= intervals.maxima[which] >= intervals.low_value[which, None]
        row, group = is_open.nonzero(as_tuple=True)
        of_row = which[row]
        of_noise = noise.bound[of_row, group]
        maximum, inverse = intervals.row_max[of_row], truncation.inverse[of_row]
        found = []
        for span, values in intervals.rows.chunks(intervals.place[of_row], group):
            scaled = (values - maximum[span, None]).mul_(inverse[span, None])
            limit = scaled + of_noise[span, None]
            may_win = limit >= floor[row[span], None]
            may_win &= intervals.contains_lanes(of_row[span], group[span], values)
            place, lane = may_win.nonzero(as_tuple=True)
            found.append((row[span][place], group[span][place], lane, scaled[place, lane]))
        row, group, lane, scaled = (torch.cat(parts) for parts in zip(*found, strict=True))
        of_row = which[row]
        token = group * GROUP + lane
        of_group = GroupNoise(
            noise.smallest[of_row, group], noise.bound[of_row, group], noise.lane[of_row, group]
        )
        gumbel = token_noise(truncation.key[of_row], truncation.position[of_row], token, of_group)
        score = scaled + gumbel
        best = torch.full_like(floor, -torch.inf).scatter_reduce_(0, row, score, "amax")
        is_best = score == best[row]
        lowest = torch.full_like(which, torch.iinfo(torch.int64).max)
        return lowest.scatter_reduce_(0, row[is_best], token[is_best], "amin")
