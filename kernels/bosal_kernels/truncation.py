"""What the truncation chains of a batch leave of the rows that sample."""

from math import log

import torch
from torch import Tensor

from bosal_kernels.floats import rounded_up
from bosal_kernels.groups import GroupedRows
from bosal_kernels.interval import Intervals
from bosal_kernels.nucleus import Nucleus
from bosal_kernels.shortlist import Shortlist
from bosal_kernels.threshold import least_logit


class Truncation:
    """R rows in the course of their chains: what is left of each, and how hot it is drawn.

    `intervals` bounds what is left; a top-p in `nucleus` may leave out more of it.
    """

    def __init__(
        self,
        rows: GroupedRows,
        place: Tensor,
        *,
        row_max: Tensor,
        first_token: Tensor,
        key: Tensor,
        position: Tensor,
        exponent: Tensor | None = None,
        surprise: Tensor | None = None,
    ) -> None:
        """Begin with whole rows.

        Dynamic temperatures need their exponents, mirostat the most surprise it allows, in bits,
        both float64 [R].
        """
        self.rows = rows
        self.place = place  # [R] of the sampling rows in the batch; every tensor here is [R]
        self.key = key
        self.position = position
        self.exponent = exponent
        self.surprise = surprise
        self.intervals = Intervals(rows, place, row_max, first_token)
        self.nucleus = Nucleus(self.intervals)
        self.shortlist = Shortlist(self.intervals)
        # Inverse temperature at the current place of the chain; after it, the draw's.
        self.inverse = torch.ones_like(row_max)

    def raise_scaled_floor(self, which: Tensor, floor: Tensor) -> None:
        """Drop what scales to less than a floor [k] in rows `which`."""
        self.intervals.raise_floor(which, self.least_logit(which, floor))

    def raise_relative_floor(self, which: Tensor, floor: Tensor) -> None:
        """Drop what scales to less than a float64 floor [k] above the first token's."""
        first = self.intervals.offset(which, self.inverse[which])
        self.raise_scaled_floor(which, rounded_up(first.double() + floor))

    def least_logit(self, which: Tensor, floor: Tensor) -> Tensor:
        """Return the least logits of rows `which` that scale to floors [k]."""
        row_max = self.intervals.row_max.take(which)
        return least_logit(row_max, self.inverse.take(which), floor)

    def surprise_of(self, which: Tensor, token: Tensor) -> Tensor:
        """Return -log2 p of tokens among what their rows `which` [k] have left, float64 [k]."""
        inverse = self.inverse[which]
        value = self.rows.at(self.place[which], token)
        scaled = self.intervals.relative(which, inverse, value).double()
        return (self.intervals.mass(which, inverse).log() - scaled) / log(2)
