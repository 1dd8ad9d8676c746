"""Draws one token per row: the argmax of scaled logit + Gumbel noise over the kept set, exactly."""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP
from bosal_kernels.noise import pair_noise, token_noise
from bosal_kernels.truncate import Truncation

_NO_TOKEN = torch.iinfo(torch.int64).max


class Draw:
    """A draw in rounds: the best token is tested against the pending top-p, if any.

    A rejected token raises its row's floor past itself: nothing at or behind it is kept. The
    groups that reach into the kept sets are listed once, [n].
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        intervals = truncation.intervals
        reach = (intervals.maxima >= intervals.low_value[:, None]) & (intervals.maxima > -torch.inf)
        reach = torch.nn.functional.pad(reach, (0, reach.shape[1] % 2))
        # Two groups share a random block.
        row, pair = reach.view(len(reach), -1, 2).any(2).nonzero(as_tuple=True)
        noise = pair_noise(truncation.key[row], truncation.position[row], pair)
        row, group = row.repeat(2), torch.cat([pair * 2, pair * 2 + 1])
        is_listed = reach.view(-1)[row * reach.shape[1] + group]
        if not bool(is_listed.all()):
            listed = is_listed.nonzero().squeeze(1)
            row, group, noise = row[listed], group[listed], noise.at(listed)
        self.row, self.group, self.noise = row, group, noise
        self.maxima = intervals.maxima.view(-1)[row * intervals.maxima.shape[1] + group]
        best = self.maxima
        if intervals.is_cut:
            best = torch.minimum(best, intervals.high_value[self.row])
        # No token of a group scores more than its bound.
        self.bound = self._scaled(self.row, best).add_(self.noise.bound)
        # The token on which a group's smallest exponential sits scores exactly that much.
        self.pivot_token = self.group * GROUP + self.noise.lane
        self.pivot_value = intervals.rows.at(intervals.place[self.row], self.pivot_token)
        self.pivot_score = self._scaled(self.row, self.pivot_value).add_(self.noise.bound)

    def tokens(self) -> Tensor:
        """Return the drawn token of every sampling row, [R]."""
        truncation = self.truncation
        intervals = truncation.intervals
        drawn = self._best(torch.arange(len(self.row), device=self.row.device))
        which = torch.arange(len(drawn), device=drawn.device)
        while True:
            token = drawn[which]
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
            again = torch.zeros_like(drawn, dtype=torch.bool)
            again[which] = True
            drawn[which] = self._best(again[self.row].nonzero().squeeze(1))[which]

    def _scaled(self, row: Tensor, values: Tensor) -> Tensor:
        return self.truncation.intervals.scaled(row, self.truncation.inverse[row], values)

    def _best(self, listed: Tensor) -> Tensor:
        """Return each row's member with the greatest score, lowest id on ties, [R].

        `listed` are the places of all groups of the rows that are to have an answer.
        """
        truncation, intervals = self.truncation, self.truncation.intervals
        row = self.row[listed]
        is_member = intervals.contains(row, self.pivot_token[listed], self.pivot_value[listed])
        score = self.pivot_score[listed].masked_fill_(~is_member, -torch.inf)
        floor = torch.full_like(intervals.row_max, -torch.inf)
        floor.scatter_reduce_(0, row, score, "amax")
        is_open = self.bound[listed] >= floor[row]
        is_open &= self.maxima[listed] >= intervals.low_value[row]
        listed, row = listed[is_open], row[is_open]
        group, floor_of_row = self.group[listed], floor[row, None]
        limit_of_group = self.noise.bound[listed, None]
        maximum, inverse = intervals.row_max[row, None], truncation.inverse[row, None]
        found = []
        for span, values in intervals.rows.chunks(intervals.place[row], group):
            scaled = (values - maximum[span]).mul_(inverse[span])
            may_win = scaled + limit_of_group[span] >= floor_of_row[span]
            may_win &= intervals.contains_lanes(row[span], group[span], values)
            place, lane = may_win.nonzero(as_tuple=True)
            found.append((listed[span][place], lane, scaled[place, lane]))
        listed, lane, scaled = (torch.cat(parts) for parts in zip(*found, strict=True))
        row = self.row[listed]
        token = self.group[listed] * GROUP + lane
        gumbel = token_noise(
            truncation.key[row], truncation.position[row], token, self.noise.at(listed)
        )
        score = scaled + gumbel
        best = torch.full_like(floor, -torch.inf).scatter_reduce_(0, row, score, "amax")
        is_best = score == best[row]
        lowest = torch.full_like(intervals.place, _NO_TOKEN)
        return lowest.scatter_reduce_(0, row[is_best], token[is_best], "amin")
