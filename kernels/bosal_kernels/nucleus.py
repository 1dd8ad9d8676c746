"""A top-p that waits: the mass ahead of drawn tokens is summed, that of whole rows seldom.

A top-p whose successors do not need its result stays pending: the mass that may lie ahead of a kept
token is tested on drawn tokens only, and most tokens pass by a bound.
"""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP
from bosal_kernels.interval import Intervals

# More than sums of float32 are off by.
_LEEWAY = 1e-4


class Nucleus:
    """The pending top-p of R rows; every tensor is [R]."""

    def __init__(self, intervals: Intervals) -> None:
        self._intervals = intervals
        # Whether any row's is pending.
        self.is_used = False
        row_max = intervals.row_max
        # The mass ahead at which a token is left out; NaN until a whole row's is needed.
        self._target = torch.full_like(row_max, torch.inf, dtype=torch.float64)
        self._share = torch.ones_like(self._target)
        self._inverse = torch.ones_like(row_max)

    def put(self, which: Tensor, inverse: Tensor, share: Tensor) -> None:
        """Keep a share [k] of the mass of rows `which`, at inverse temperatures [k]."""
        self.is_used = True
        self._share[which] = share
        self._inverse[which] = inverse
        target = torch.full_like(share, torch.nan)
        place = (~self._intervals.is_whole(which)).nonzero().squeeze(1)
        if len(place):
            mass = self._intervals.mass(which[place], inverse[place])
            target[place] = share[place] * mass
        self._target[which] = target

    def is_pending(self, which: Tensor) -> Tensor:
        """Tell which of the rows `which` have a top-p to pass."""
        return self._target.take(which) != torch.inf

    def leaves_out(self, which: Tensor, value: Tensor, token: Tensor) -> Tensor:
        """Tell which of the tokens of rows `which` [k] their pending top-p leaves out."""
        inverse, share = self._inverse.take(which), self._share.take(which)
        target = self._target.take(which)
        ahead, read = self._intervals.mass_ahead(which, inverse, value, token)
        is_open = target.isnan()
        if not bool(is_open.any()):
            return ahead >= target
        rest = self._intervals.best_mass_behind(which, inverse, value)
        is_kept = ahead < share * (read + rest) * (1 - _LEEWAY)
        is_left_out = ahead >= share * (read + GROUP * rest) * (1 + _LEEWAY)
        place = (is_open & ~is_kept & ~is_left_out).nonzero().squeeze(1)
        if len(place):
            unsure = which[place]
            mass = self._intervals.row_mass(unsure, inverse[place])
            target[place] = share[place] * mass
            self._target[unsure] = target[place]
        return torch.where(target.isnan(), is_left_out, ahead >= target)
