"""The first tokens of rows in their order, as a table: what a top-k leaves is short."""

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP, weights
from bosal_kernels.interval import Intervals
from bosal_kernels.logprobs import best_tokens
from bosal_kernels.transfer import numbered


class Shortlist:
    """The tokens of the rows that were listed, best first; row r of both tables is row r."""

    def __init__(self, intervals: Intervals) -> None:
        self._intervals = intervals
        num_rows = len(intervals.place)
        # Padded by -inf to whole groups; a row that was never listed is empty.
        self._values = intervals.maxima.new_empty((num_rows, 0))
        self._tokens = intervals.place.new_empty((num_rows, 0))
        self._listed: set[int] = set()

    @property
    def is_short(self) -> bool:
        """Whether all rows were listed, with a group's worth of tokens at most."""
        return len(self._listed) == len(self._values) and self._values.shape[1] == GROUP

    def members(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits and ids listed, and which of them are still left, [R, n] each."""
        row = numbered(len(self._values), self._values.device)[:, None]
        is_left = self._intervals.contains(row, self._tokens, self._values)
        return self._values, self._tokens, is_left & (self._values > -torch.inf)

    def list(self, which: Tensor, count: Tensor) -> None:
        """List the `count` [k] best tokens of rows `which`, whole ones, and drop the others."""
        intervals = self._intervals
        self._listed.update(which.tolist())
        best = best_tokens(intervals.rows, intervals.place.take(which), count)
        self._reach(int(count.max()))
        width = self._values.shape[1]
        place = torch.add(best.rank, which.index_select(0, best.row), alpha=width)
        self._values.view(-1).index_copy_(0, place, best.value)
        self._tokens.view(-1).index_copy_(0, place, best.token)
        values = self._values.index_select(0, which)
        last = torch.minimum((values > -torch.inf).sum(1), count)[:, None] - 1
        tokens = self._tokens.index_select(0, which)
        intervals.raise_floor(which, values.gather(1, last)[:, 0], tokens.gather(1, last)[:, 0])

    def cut_mass(self, which: Tensor, inverse: Tensor, share: Tensor) -> None:
        """Drop all behind the token at which a share [k] of the mass left is reached.

        Of listed rows `which`, at inverse temperatures [k].
        """
        intervals = self._intervals
        values, tokens = self._values.index_select(0, which), self._tokens.index_select(0, which)
        is_member = intervals.contains(which[:, None], tokens, values) & (values > -torch.inf)
        scaled = intervals.relative(which[:, None], inverse[:, None], values)
        weight = weights(scaled.view(-1, GROUP)).view_as(values).double()
        taken = weight.masked_fill_(~is_member, 0.0).cumsum(1)
        ahead = torch.nn.functional.pad(taken[:, :-1], (1, 0))
        is_kept = is_member & (ahead < share[:, None] * taken[:, -1:])
        # Members follow each other, and so do the kept ones.
        first = is_member.int().argmax(1, keepdim=True)
        last = (first + is_kept.sum(1, keepdim=True) - 1).clamp_(min=0)
        intervals.raise_floor(which, values.gather(1, last)[:, 0], tokens.gather(1, last)[:, 0])

    def _reach(self, count: int) -> None:
        """Have room for so many tokens of a row."""
        missing = -(-count // GROUP) * GROUP - self._values.shape[1]
        if missing > 0:
            pad = torch.nn.functional.pad
            self._values = pad(self._values, (0, missing), value=-torch.inf)
            self._tokens = pad(self._tokens, (0, missing), value=-1)
