"""Kept sets as intervals of the order (logit descending, id ascending), one per row.

Whatever the truncation chain keeps of a row is such an interval: XTC cuts its top, typical both
ends, everything else its bottom. Logits are compared before temperature.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP, GroupedRows, sum_by_row, weights


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several rows in one list, row by row and by id."""

    row: Tensor  # [m] place among the rows asked for
    token: Tensor  # [m]
    value: Tensor  # [m]

    def where(self, kept: Tensor) -> Self:
        return type(self)(self.row[kept], self.token[kept], self.value[kept])

    def first(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return each row's first token by (value desc, id asc): value and id."""
        best = torch.full((num_rows,), -torch.inf, device=self.row.device)
        best = best.scatter_reduce_(0, self.row, self.value, "amax")
        ties = self.where(self.value == best[self.row])
        lowest = torch.full_like(best, torch.iinfo(torch.int64).max, dtype=torch.int64)
        return best, lowest.scatter_reduce_(0, ties.row, ties.token, "amin")

    def last(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return each row's last token by (value desc, id asc): value and id."""
        least = torch.full((num_rows,), torch.inf, device=self.row.device)
        least = least.scatter_reduce_(0, self.row, self.value, "amin")
        ties = self.where(self.value == least[self.row])
        highest = torch.full_like(least, -1, dtype=torch.int64)
        return least, highest.scatter_reduce_(0, ties.row, ties.token, "amax")


class Intervals:
    """The intervals of R rows of a batch; both edges are tokens and inclusive."""

    def __init__(
        self, rows: GroupedRows, place: Tensor, row_max: Tensor, first_token: Tensor
    ) -> None:
        self.rows = rows
        self.place = place  # [R] rows of the batch; everything below is [R]
        self.maxima = rows.maxima[place]  # [R, NG]
        self.row_max = row_max  # of the whole row; centres every scaled logit
        self.low_value = torch.full_like(row_max, -torch.inf)
        self.low_token = torch.full_like(place, -1)
        self.high_value = torch.full_like(row_max, torch.inf)
        self.high_token = torch.full_like(place, -1)
        # Whether any row has lost its top.
        self.is_cut = False
        # The first token inside; its logit is the largest.
        self.first_value = row_max.clone()
        self.first_token = first_token
        self._lane = torch.arange(GROUP, device=place.device)

    def raise_floor(self, which: Tensor, value: Tensor, token: Tensor | None = None) -> None:
        """Drop what lies behind (value, token); without a token, what is less than value.

        The first token always stays.
        """
        if token is None:
            token = torch.full_like(which, self.rows.num_groups * GROUP)
        best, first = self.first_value[which], self.first_token[which]
        is_behind = (value < best) | ((value == best) & (token >= first))
        value, token = torch.where(is_behind, value, best), torch.where(is_behind, token, first)
        old_value, old_token = self.low_value[which], self.low_token[which]
        is_higher = (value > old_value) | ((value == old_value) & (token < old_token))
        self.low_value[which] = torch.where(is_higher, value, old_value)
        self.low_token[which] = torch.where(is_higher, token, old_token)

    def lower_ceiling(self, which: Tensor, value: Tensor, token: Tensor) -> None:
        """Drop what lies ahead of a member."""
        self.high_value[which] = value
        self.high_token[which] = token
        self.first_value[which] = value
        self.first_token[which] = token
        self.is_cut = True

    def scaled(self, which: Tensor, inverse: Tensor, values: Tensor) -> Tensor:
        """Return (z - row maximum) * inverse temperature, rounded twice; arguments broadcast."""
        return (values - self.row_max[which]) * inverse

    def offset(self, which: Tensor, inverse: Tensor) -> Tensor:
        """Return the scaled logit of the first token inside; 0 where the top is not cut."""
        return self.scaled(which, inverse, self.first_value[which])

    def relative(self, which: Tensor, inverse: Tensor, values: Tensor) -> Tensor:
        """Return scaled logits less that of the first token inside; arguments broadcast.

        Masses are sums of their exponentials: far below the row's maximum a cold interval's own
        would vanish in float32.
        """
        scaled = self.scaled(which, inverse, values)
        return scaled - self.offset(which, inverse) if self.is_cut else scaled

    def contains(self, which: Tensor, token: Tensor, value: Tensor) -> Tensor:
        """Tell which tokens are inside; the arguments broadcast."""
        low_value = self.low_value[which]
        inside = (value > low_value) | ((value == low_value) & (token <= self.low_token[which]))
        if self.is_cut:
            high_value, high_token = self.high_value[which], self.high_token[which]
            inside &= (value < high_value) | ((value == high_value) & (token >= high_token))
        return inside

    def contains_lanes(self, which: Tensor, group: Tensor, values: Tensor) -> Tensor:
        """Tell which tokens of whole groups, [n, 64], are inside; `which` and `group` are [n]."""
        return self.contains(which[:, None], group[:, None] * GROUP + self._lane, values)

    def tokens(self, which: Tensor, floor: Tensor | None = None) -> Tokens:
        """Return the members of rows `which` [k]; given a floor [k], those that reach it."""
        reach = self.low_value[which]
        if floor is not None:
            reach = torch.maximum(reach, floor)
        row, group = self._reaching(which, reach)
        found = []
        for span, values in self.rows.chunks(self.place[which[row]], group):
            inside = self.contains_lanes(which[row[span]], group[span], values)
            inside &= values >= reach[row[span], None]
            place, lane = inside.nonzero(as_tuple=True)
            token = group[span][place] * GROUP + lane
            found.append((row[span][place], token, values[place, lane]))
        return Tokens(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def is_whole(self, which: Tensor) -> Tensor:
        """Tell which rows have lost no token yet."""
        return (self.low_value[which] == -torch.inf) & (self.high_value[which] == torch.inf)

    def mass(self, which: Tensor, inverse: Tensor) -> Tensor:
        """Return the sum of exp(relative scaled logit) over the intervals, float64 [k]."""
        row, group = self._reaching(which, self.low_value[which])
        return self._sum(row, group, self._weighted(which, inverse, row, group), len(which))

    def row_mass(self, which: Tensor, inverse: Tensor) -> Tensor:
        """Return what `mass` is while the rows are whole."""
        row, group = (self.maxima[which] > -torch.inf).nonzero(as_tuple=True)
        pieces = self._weighted(which, inverse, row, group, is_whole=True)
        return self._sum(row, group, pieces, len(which))

    def best_mass_behind(self, which: Tensor, inverse: Tensor, value: Tensor) -> Tensor:
        """Return the summed weights of the maxima of groups that `value` outranks, float64 [k].

        In whole rows the mass of those groups is this at least and 64 times this at most.
        """
        maxima = self.maxima[which]
        weight = self.scaled(which[:, None], inverse[:, None], maxima)
        # Denormal numbers are slow, and nothing beside the read groups.
        weight = weight.clamp_(min=-80.0).exp_()
        return weight.masked_fill_(maxima >= value[:, None], 0.0).sum(1, dtype=torch.float64)

    def mass_and_moment(self, which: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mass and the sum of exp(s) s, s the relative scaled logit, float64 [k]."""
        row, group = self._reaching(which, self.low_value[which])
        masses, moments = [], []
        for weight, scaled in self._weighted(which, inverse, row, group):
            masses.append(weight.sum(1))
            moments.append((weight * scaled.clamp_(min=-1e30)).sum(1))
        shape = (len(which), self.rows.num_groups)
        return sum_by_row(row, group, masses, shape), sum_by_row(row, group, moments, shape)

    def count(self, which: Tensor) -> Tensor:
        """Return how many finite tokens the intervals hold, float64 [k]."""
        row, group = self._reaching(which, self.low_value[which])
        numbers = []
        for span, values in self.rows.chunks(self.place[which[row]], group):
            inside = self.contains_lanes(which[row[span]], group[span], values)
            numbers.append((inside & (values > -torch.inf)).sum(1))
        return sum_by_row(row, group, numbers, (len(which), self.rows.num_groups))

    def mass_ahead(
        self, which: Tensor, inverse: Tensor, value: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mass of each interval's tokens ahead of (value, token), float64 [k].

        And that of all tokens of the groups read, in the interval or not: those that value does
        not outrank.
        """
        # Ties of the token itself count, so its own level is read as well.
        row, group = self._reaching(which, value)
        sums, totals = [], []
        for span, values in self.rows.chunks(self.place[which[row]], group):
            edge, lane_limit = value[row[span], None], (token[row] - group * GROUP)[span, None]
            ahead = (values > edge) | ((values == edge) & (self._lane < lane_limit))
            if self.is_cut:
                ahead &= self.contains_lanes(which[row[span]], group[span], values)
            of_row = which[row[span], None]
            weight = weights(self.relative(of_row, inverse[row[span], None], values))
            totals.append(weight.sum(1))
            sums.append(weight.masked_fill_(~ahead, 0.0).sum(1))
        shape = (len(which), self.rows.num_groups)
        return sum_by_row(row, group, sums, shape), sum_by_row(row, group, totals, shape)

    def _reaching(self, which: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """List the groups of rows `which` [k] whose maxima reach a value: row, group [n]."""
        maxima = self.maxima[which]
        row, group = ((maxima >= reach[:, None]) & (maxima > -torch.inf)).nonzero(as_tuple=True)
        return row, group

    def _weighted(
        self, which: Tensor, inverse: Tensor, row: Tensor, group: Tensor, *, is_whole: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the weights of members, 0 for others, and the relative scaled logits.

        All tokens of whole rows count as members, whatever was cut since.
        """
        is_whole = is_whole or bool(self.is_whole(which).all())
        of_row, of_inverse = which[row], inverse[row, None]
        maximum = self.row_max[of_row, None]
        offset = None if is_whole else self.offset(of_row, inverse[row])[:, None]
        for span, values in self.rows.chunks(self.place[of_row], group):
            outside = None
            if not is_whole:
                outside = ~self.contains_lanes(of_row[span], group[span], values)
            scaled = values.sub_(maximum[span]).mul_(of_inverse[span])
            if offset is not None:
                scaled.sub_(offset[span])
            weight = weights(scaled)
            if outside is not None:
                weight.masked_fill_(outside, 0.0)
            yield weight, scaled

    def _sum(
        self,
        row: Tensor,
        group: Tensor,
        pieces: Iterator[tuple[Tensor, Tensor]],
        num_rows: int,
    ) -> Tensor:
        sums = [weight.sum(1) for weight, _ in pieces]
        return sum_by_row(row, group, sums, (num_rows, self.rows.num_groups))
