"""Draws one token per row: the argmax of scaled logit + Gumbel noise over the kept set, exactly."""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP
from bosal_kernels.noise import GroupNoise, all_group_noise, group_noise, token_noise
from bosal_kernels.truncate import Truncation

# Beyond this share of groups their noise is drawn in pairs, without listing them.
_DENSE_SHARE = 0.25


class Draw:
    """A draw in rounds: the best token is tested against the pending top-p, if any.

    A rejected token raises its row's floor past itself: nothing at or behind it is kept.
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        intervals = truncation.intervals
        self.reach = intervals.rows.maxima >= intervals.low_value[:, None]
        self.reach &= intervals.rows.maxima > -torch.inf
        self.noise = self._noise()
        rows = intervals.rows
        which = torch.arange(rows.num_rows, device=self.reach.device)[:, None]
        inverse = truncation.inverse[which]
        # No token of a group scores more than its bound.
        best = torch.minimum(rows.maxima, intervals.high_value[which])
        bound = intervals.scaled(which, inverse, best) + self.noise.bound
        self.bound = bound.masked_fill_(~self.reach, -torch.inf)
        # The token on which a group's smallest exponential sits scores exactly its own bound.
        groups = torch.arange(rows.num_groups, device=which.device)
        self.pivot_token = groups * GROUP + self.noise.lane
        self.pivot_value = rows.values.gather(1, self.pivot_token)
        score = intervals.scaled(which, inverse, self.pivot_value) + self.noise.bound
        self.pivot_score = score.masked_fill_(~self.reach, -torch.inf)

    def _noise(self) -> GroupNoise:
        truncation, reach = self.truncation, self.reach
        if int(reach.sum()) > _DENSE_SHARE * reach.numel():
            return all_group_noise(truncation.key, truncation.position, reach.shape[1])
        row, group = reach.nonzero(as_tuple=True)
        found = group_noise(truncation.key[row], truncation.position[row], group)
        smallest = torch.ones(reach.shape, dtype=torch.float32, device=reach.device)
        bound = torch.full_like(smallest, -torch.inf)
        lane = torch.zeros(reach.shape, dtype=torch.int64, device=reach.device)
        smallest[row, group] = found.smallest
        bound[row, group] = found.bound
        lane[row, group] = found.lane
        return GroupNoise(smallest, bound, lane)

    def tokens(self) -> Tensor:
        """Return the drawn token of every row, [R]."""
        truncation = self.truncation
        intervals = truncation.intervals
        drawn = torch.full_like(truncation.key, -1)
        which = torch.arange(len(drawn), device=drawn.device)
        while len(which):
            token = self._best(which)
            drawn[which] = token
            is_pending = truncation.pending_mass[which] < torch.inf
            is_pending &= token != intervals.first_token[which]
            which, token = which[is_pending], token[is_pending]
            if len(which) == 0:
                break
            value = intervals.rows.at(which, token)
            inverse = truncation.pending_inverse[which]
            ahead = intervals.mass_ahead(which, inverse, value, token)
            is_rejected = ahead >= truncation.pending_mass[which]
            which, value, token = which[is_rejected], value[is_rejected], token[is_rejected]
            intervals.raise_floor(which, value, token - 1)
        return drawn

    def _best(self, which: Tensor) -> Tensor:
        """Return the member of each interval [k] with the greatest score, lowest id on ties."""
        truncation, noise = self.truncation, self.noise
        intervals, rows = truncation.intervals, truncation.rows
        column = which[:, None]
        is_member = intervals.contains_token(
            column, self.pivot_token[which], self.pivot_value[which]
        )
        floor = self.pivot_score[which].masked_fill_(~is_member, -torch.inf).amax(1)
        bound = self.bound[which]
        is_open = (bound >= floor[:, None]) & (rows.maxima[which] >= intervals.low_value[column])
        row, group = (is_open & (bound > -torch.inf)).nonzero(as_tuple=True)
        global_row = which[row]
        values = rows.read(global_row, group)
        scaled = intervals.scaled(global_row[:, None], truncation.inverse[global_row, None], values)
        limit = scaled + noise.bound[global_row, group][:, None]
        may_win = intervals.contains(global_row, group, values) & (limit >= floor[row, None])
        place, lane = may_win.nonzero(as_tuple=True)
        row, group, global_row = row[place], group[place], global_row[place]
        token = group * GROUP + lane
        of_group = GroupNoise(
            noise.smallest[global_row, group],
            noise.bound[global_row, group],
            noise.lane[global_row, group],
        )
        gumbel = token_noise(
            truncation.key[global_row], truncation.position[global_row], token, of_group
        )
        score = scaled[place, lane] + gumbel
        best = torch.full_like(floor, -torch.inf).scatter_reduce_(0, row, score, "amax")
        is_best = score == best[row]
        lowest = torch.full_like(which, torch.iinfo(torch.int64).max)
        return lowest.scatter_reduce_(0, row[is_best], token[is_best], "amin")
