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
    Tensors here hold the sampling rows [R] of the batch only.
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        self.which = truncation.which  # [R] places in the batch
        intervals, rows = truncation.intervals, truncation.intervals.rows
        column = self.which[:, None]
        maxima = rows.maxima[self.which]
        self.maxima = maxima
        reach = (maxima >= intervals.low_value[column]) & (maxima > -torch.inf)
        self.noise = self._noise(reach)
        # No token of a group scores more than its bound.
        best = torch.minimum(maxima, intervals.high_value[column])
        inverse = truncation.inverse[column]
        bound = intervals.scaled(column, inverse, best) + self.noise.bound
        self.bound = bound.masked_fill_(~reach, -torch.inf)
        # The token on which a group's smallest exponential sits scores exactly that much.
        groups = torch.arange(rows.num_groups, device=column.device)
        self.pivot_token = groups * GROUP + self.noise.lane
        self.pivot_value = rows.at(column, self.pivot_token)
        score = intervals.scaled(column, inverse, self.pivot_value) + self.noise.bound
        self.pivot_score = score.masked_fill_(~reach, -torch.inf)

    def _noise(self, reach: Tensor) -> GroupNoise:
        key, position = self.truncation.key[self.which], self.truncation.position[self.which]
        if int(reach.sum()) > _DENSE_SHARE * reach.numel():
            return all_group_noise(key, position, reach.shape[1])
        row, group = reach.nonzero(as_tuple=True)
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
        drawn = torch.full_like(self.which, -1)
        mine = torch.arange(len(drawn), device=drawn.device)
        while len(mine):
            token = self._best(mine)
            drawn[mine] = token
            which = self.which[mine]
            is_pending = truncation.pending_mass[which] < torch.inf
            is_pending &= token != intervals.first_token[which]
            mine, which, token = mine[is_pending], which[is_pending], token[is_pending]
            if len(mine) == 0:
                break
            value = intervals.rows.at(which, token)
            inverse = truncation.pending_inverse[which]
            ahead = intervals.mass_ahead(which, inverse, value, token)
            is_rejected = ahead >= truncation.pending_mass[which]
            mine = mine[is_rejected]
            intervals.raise_floor(which[is_rejected], value[is_rejected], token[is_rejected] - 1)
        return drawn

    def _best(self, mine: Tensor) -> Tensor:
        """Return the member of each interval [k] with the greatest score, lowest id on ties."""
        truncation, noise = self.truncation, self.noise
        intervals = truncation.intervals
        which = self.which[mine]
        is_member = intervals.contains(
            which[:, None], self.pivot_token[mine], self.pivot_value[mine]
        )
        floor = self.pivot_score[mine].masked_fill_(~is_member, -torch.inf).amax(1)
        bound = self.bound[mine]
        is_open = (bound >= floor[:, None]) & (bound > -torch.inf)
        is_open &= self.maxima[mine] >= intervals.low_value[which, None]
        row, group = is_open.nonzero(as_tuple=True)
        of_row = which[row]
        of_noise = noise.bound[mine[row], group]
        maximum, inverse = intervals.row_max[of_row], truncation.inverse[of_row]
        candidates = []
        for span, values in intervals.rows.chunks(of_row, group):
            scaled = (values - maximum[span, None]).mul_(inverse[span, None])
            limit = scaled + of_noise[span, None]
            may_win = limit >= floor[row[span], None]
            may_win &= intervals.contains_lanes(of_row[span], group[span], values)
            place, lane = may_win.nonzero(as_tuple=True)
            candidates.append((place + span.start, lane, scaled[place, lane]))
        place, lane, scaled = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        row, group, of_row = row[place], group[place], of_row[place]
        token = group * GROUP + lane
        local = mine[row]
        of_group = GroupNoise(
            noise.smallest[local, group], noise.bound[local, group], noise.lane[local, group]
        )
        gumbel = token_noise(truncation.key[of_row], truncation.position[of_row], token, of_group)
        score = scaled + gumbel
        best = torch.full_like(floor, -torch.inf).scatter_reduce_(0, row, score, "amax")
        is_best = score == best[row]
        lowest = torch.full_like(which, torch.iinfo(torch.int64).max)
        return lowest.scatter_reduce_(0, row[is_best], token[is_best], "amin")
