"""Kept sets as intervals of the order (logit descending, id ascending), one per row.

Whatever the truncation chain keeps of a row is such an interval: XTC cuts its top, typical both
ends, everything else its bottom. Logits are compared before temperature.
"""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP, GroupedRows, lanes, tree_sum, weights


class Members:
    """Groups that may hold members of some rows' intervals: n groups of 64 tokens."""

    def __init__(self, row: Tensor, group: Tensor, values: Tensor, inside: Tensor | None) -> None:
        self.row = row  # [n] place among the rows asked for
        self.group = group  # [n]
        self.values = values  # [n, 64]
        # [n, 64] bool, or None where every finite token is a member.
        self.inside = inside

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the members one by one, row by row and by id: row, token, value [m]."""
        inside = self.values > -torch.inf if self.inside is None else self.inside
        place, lane = inside.nonzero(as_tuple=True)
        return self.row[place], lanes(self.group)[place, lane], self.values[place, lane]


class Intervals:
    """The intervals of R rows; both edges are tokens and inclusive."""

    def __init__(self, rows: GroupedRows, maximum: Tensor) -> None:
        self.rows = rows
        self.row_max = maximum  # [R] the whole row's, which centres every scaled logit
        self.low_value = torch.full_like(maximum, -torch.inf)
        self.low_token = torch.full_like(maximum, -1, dtype=torch.int64)
        self.high_value = torch.full_like(maximum, torch.inf)
        self.high_token = torch.full_like(maximum, -1, dtype=torch.int64)
        everyone = torch.arange(len(maximum), device=maximum.device)
        group = (rows.maxima == maximum[:, None]).int().argmax(1)
        lane = (rows.read(everyone, group) == maximum[:, None]).int().argmax(1)
        # The first token inside; its logit is the largest.
        self.first_value = maximum.clone()
        self.first_token = group * GROUP + lane

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

    def contains(self, which: Tensor, group: Tensor, values: Tensor) -> Tensor:
        """Tell which tokens of groups [n, 64] are inside, for rows `which` [n]."""
        low_value = self.low_value[which, None]
        low_lane = (self.low_token[which] - group * GROUP)[:, None]
        lane = torch.arange(GROUP, device=group.device)
        inside = (values > low_value) | ((values == low_value) & (lane <= low_lane))
        if bool((self.high_value[which] < torch.inf).any()):
            high_value = self.high_value[which, None]
            high_lane = (self.high_token[which] - group * GROUP)[:, None]
            inside &= (values < high_value) | ((values == high_value) & (lane >= high_lane))
        return inside

    def contains_token(self, which: Tensor, token: Tensor, value: Tensor) -> Tensor:
        """Tell which tokens are inside; the arguments broadcast with [k]."""
        low_value, high_value = self.low_value[which], self.high_value[which]
        low_token, high_token = self.low_token[which], self.high_token[which]
        return ((value > low_value) | ((value == low_value) & (token <= low_token))) & (
            (value < high_value) | ((value == high_value) & (token >= high_token))
        )

    def members(self, which: Tensor, floor: Tensor | None = None) -> Members:
        """Read the groups of rows `which` [k] that reach into their intervals.

        With a floor [k], tokens less than it may be left out.
        """
        maxima = self.rows.maxima[which]
        reach = self.low_value[which]
        if floor is not None:
            reach = torch.maximum(reach, floor)
        row, group = ((maxima >= reach[:, None]) & (maxima > -torch.inf)).nonzero(as_tuple=True)
        values = self.rows.read(which[row], group)
        is_whole = (self.low_value[which] == -torch.inf) & (self.high_value[which] == torch.inf)
        inside = None if bool(is_whole.all()) else self.contains(which[row], group, values)
        return Members(row, group, values, inside)

    def scaled(self, which: Tensor, inverse: Tensor, values: Tensor) -> Tensor:
        """Return (z - row maximum) * inverse temperature, rounded twice; arguments broadcast."""
        return (values - self.row_max[which]) * inverse

    def mass(self, which: Tensor, inverse: Tensor) -> Tensor:
        """Return the sum of exp(scaled logit) over the intervals, float64 [k]."""
        return self.mass_and_moment(which, inverse, with_moment=False)[0]

    def mass_and_moment(
        self, which: Tensor, inverse: Tensor, *, with_moment: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the mass and the sum of exp(s) s, s the scaled logit, float64 [k]."""
        found = self.members(which)
        scaled = self.scaled(which[found.row, None], inverse[found.row, None], found.values)
        power = weights(scaled)
        if found.inside is not None:
            power.mul_(found.inside)
        mass = self._gather(found, len(which), power)
        if not with_moment:
            return mass, mass
        return mass, self._gather(found, len(which), power * scaled.clamp(min=-1e30))

    def _gather(self, found: Members, num_rows: int, parts: Tensor) -> Tensor:
        """Sum [n, 64] by row: inside groups, then over all groups in a fixed tree."""
        sums = torch.zeros(
            (num_rows, self.rows.num_groups), dtype=torch.float64, device=parts.device
        )
        sums[found.row, found.group] = parts.sum(1).double()
        return tree_sum(sums)

    def mass_ahead(self, which: Tensor, inverse: Tensor, value: Tensor, token: Tensor) -> Tensor:
        """Return the mass of each interval's tokens ahead of (value, token), float64 [k]."""
        maxima = self.rows.maxima[which]
        # Ties of the token itself count, so its own level is read as well.
        row, group = (maxima >= value[:, None]).nonzero(as_tuple=True)
        values = self.rows.read(which[row], group)
        lane = torch.arange(GROUP, device=group.device)
        own_lane = (token[row] - group * GROUP)[:, None]
        edge = value[row, None]
        ahead = (values > edge) | ((values == edge) & (lane < own_lane))
        if bool((self.high_value[which] < torch.inf).any()):
            ahead &= self.contains(which[row], group, values)
        power = weights(self.scaled(which[row, None], inverse[row, None], values)).mul_(ahead)
        return self._gather(Members(row, group, values, ahead), len(which), power)
