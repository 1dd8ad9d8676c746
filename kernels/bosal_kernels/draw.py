"""Draws one token per row: the argmax of scaled logit + Gumbel noise over the kept set, exactly."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.groups import GROUP, sparse_places
from bosal_kernels.noise import GroupNoise, Source, group_noise, pair_noise, token_noise
from bosal_kernels.transfer import numbered
from bosal_kernels.truncation import Truncation

_NO_TOKEN = torch.iinfo(torch.int64).max
# Of so many neighbouring groups the one that may score most is tried first.
_BUCKET = 8
# Below every finite score and at most every finite logit.
_LEAST = torch.finfo(torch.float32).min
# More than a few roundings of float32 are off by, and more than any noise is large.
_ROUNDING = 1e-6
_NOISE = 32.0


def drawn_tokens(truncation: Truncation) -> Tensor:
    """Return the drawn token of every sampling row, [R]."""
    if truncation.shortlist.is_short and not truncation.nucleus.is_used:
        return _of_shortlist(truncation)
    return Draw(truncation).tokens()


def _of_shortlist(truncation: Truncation) -> Tensor:
    """Draw where few tokens are left of every row, and known: each of them gets its noise."""
    values, tokens, is_member = truncation.shortlist.members()
    row = numbered(len(tokens), tokens.device)[:, None].expand_as(tokens).flatten()
    token = tokens.clamp(min=0).view(-1)
    source = Source(truncation.key, truncation.position)
    noise = token_noise(source, row, token, group_noise(source, row, token >> 6))
    score = _scaled(truncation, values).add_(noise.view_as(values))
    score.masked_fill_(~is_member, -torch.inf)
    is_best = is_member & (score == score.amax(1, keepdim=True))
    return tokens.masked_fill(~is_best, _NO_TOKEN).amin(1)


def _scaled(truncation: Truncation, values: Tensor) -> Tensor:
    """Scale [R, n] logits of all rows."""
    row_max = truncation.intervals.row_max[:, None]
    return (values - row_max).mul_(truncation.inverse[:, None])


@dataclass(frozen=True, slots=True)
class _Groups:
    """What the groups of rows can score, [R, NG] each."""

    maxima: Tensor
    # No token of a group scores more.
    bound: Tensor
    noise: GroupNoise
    # Tokens that score all that their group's noise allows, [R, about NG / _BUCKET].
    pivot_token: Tensor
    pivot_value: Tensor
    pivot_score: Tensor

    def of(self, which: Tensor) -> Self:
        """Return the groups of rows `which`."""
        return type(self)(
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
        self._source = Source(truncation.key, truncation.position)
        intervals = truncation.intervals
        rows, maxima = intervals.rows, intervals.maxima
        noise = self._noise()
        best = torch.minimum(maxima, intervals.high_value[:, None]) if intervals.is_cut else maxima
        bound = _scaled(truncation, best).add_(noise.bound)
        # The token on which a group's smallest exponential sits scores the group's bound if it is
        # the group's best; at any rate its score is a floor under the winner's. Groups left over
        # have none.
        num_full = rows.vocab_size // GROUP
        bucket = min(_BUCKET, max(num_full, 1))
        start = torch.arange(0, num_full - bucket + 1, bucket, device=maxima.device)
        buckets = bound[:, : len(start) * bucket].view(len(bound), len(start), bucket)
        pivot = buckets.argmax(2).add_(start)
        pivot_token = torch.add(noise.lane.gather(1, pivot), pivot, alpha=GROUP)
        pivot_value = rows.at(intervals.place[:, None], pivot_token)
        self._groups = _Groups(
            maxima=maxima,
            bound=bound,
            noise=noise,
            pivot_token=pivot_token,
            pivot_value=pivot_value,
            pivot_score=_scaled(truncation, pivot_value).add_(noise.bound.gather(1, pivot)),
        )

    def tokens(self) -> Tensor:
        """Return the drawn token of every sampling row, [R]."""
        truncation = self.truncation
        first_token = truncation.intervals.first_token
        which = torch.arange(len(first_token), device=first_token.device)
        drawn, value = self._best(which, self._groups)
        token = drawn
        while True:
            is_pending = truncation.nucleus.is_pending(which)
            is_pending &= token != first_token[which]
            place = is_pending.nonzero().squeeze(1)
            if len(place) == 0:
                return drawn
            which, token, value = which[place], token[place], value[place]
            is_rejected = truncation.nucleus.leaves_out(which, value, token)
            place = is_rejected.nonzero().squeeze(1)
            if len(place) == 0:
                return drawn
            which = which[place]
            truncation.intervals.raise_floor(which, value[place], token[place] - 1)
            token, value = self._best(which, self._groups.of(which))
            drawn[which] = token

    def _noise(self) -> GroupNoise:
        """Return the noise of the groups that can win, [R, NG]; of others too, or a -inf bound."""
        intervals = self.truncation.intervals
        num_rows, num_groups = intervals.maxima.shape
        # Two groups share a random block.
        num_pairs = -(-num_groups // 2)
        is_open = torch.zeros(
            (num_rows, 2 * num_pairs), dtype=torch.bool, device=intervals.place.device
        )
        floor = intervals.low_value.clamp(min=_LEAST)[:, None]
        torch.ge(intervals.maxima, floor, out=is_open[:, :num_groups])
        # Read as one number, a pair is zero where neither is open.
        row, pair = is_open.view(torch.int16).nonzero(as_tuple=True)
        noise = pair_noise(self._source, row, pair)
        place = row * num_pairs + pair

        def spread(values: Tensor, missing: float) -> Tensor:
            """Lay out what is known of the listed pairs, [n, 2], as a table."""
            table = values.new_full((num_rows * num_pairs, 2), missing)
            return table.index_copy_(0, place, values).view(num_rows, -1)[:, :num_groups]

        return GroupNoise(
            smallest=spread(noise.smallest, 0.0),
            bound=spread(noise.bound, -torch.inf),
            lane=spread(noise.lane, 0),
        )

    def _best(self, which: Tensor, groups: _Groups) -> tuple[Tensor, Tensor]:
        """Return the members of rows `which` with the greatest scores, lowest id on ties.

        Their ids and logits, [k] each.
        """
        intervals = self.truncation.intervals
        low = intervals.low_value.index_select(0, which).clamp_(min=_LEAST)
        floor = self._floor(which, groups, low)
        is_open = (groups.bound >= floor[:, None]) & (groups.maxima >= low[:, None])
        place, group = is_open.nonzero(as_tuple=True)
        row = which.index_select(0, place)
        listed = torch.add(group, place, alpha=is_open.shape[1])
        score = floor.index_select(0, place) - groups.noise.bound.take(listed)
        edge = self._edge(row, score)
        edge = torch.maximum(edge, low.index_select(0, place))[:, None]
        found = []
        for span, values in intervals.rows.chunks(intervals.place.index_select(0, row), group):
            number, lane = sparse_places(values >= edge[span])
            value = values.take(torch.add(lane, number, alpha=GROUP))
            found.append((number + (span.start or 0), lane, value))
        number, lane, value = (
            found[0] if len(found) == 1 else (torch.cat(part) for part in zip(*found, strict=True))
        )
        place, row = place.index_select(0, number), row.index_select(0, number)
        token = lane.add_(group.index_select(0, number), alpha=GROUP)
        noise = groups.noise.take(listed.index_select(0, number))
        gumbel = token_noise(self._source, row, token, noise)
        is_member = intervals.contains(row, token, value)
        inverse = self.truncation.inverse.index_select(0, row)
        score = (value - intervals.row_max.index_select(0, row)).mul_(inverse).add_(gumbel)
        score.masked_fill_(~is_member, -torch.inf)
        best = torch.full_like(low, -torch.inf).scatter_reduce_(0, place, score, "amax")
        is_best = is_member & (score == best.index_select(0, place))
        lowest = torch.full_like(which, _NO_TOKEN)
        lowest.scatter_reduce_(0, place, token.masked_fill(~is_best, _NO_TOKEN), "amin")
        return lowest, intervals.rows.at(intervals.place.index_select(0, which), lowest)

    def _floor(self, which: Tensor, groups: _Groups, low: Tensor) -> Tensor:
        """Return what the best of rows `which` score at least, [k]; `low` bounds their logits."""
        intervals = self.truncation.intervals
        if groups.pivot_token.shape[1] == 0:
            return torch.full_like(low, _LEAST)
        if intervals.is_cut:
            is_member = intervals.contains(which[:, None], groups.pivot_token, groups.pivot_value)
        else:
            # Ties of the last member may be members, too; no harm if they are no pivots.
            is_member = groups.pivot_value > low[:, None]
        return groups.pivot_score.masked_fill(~is_member, _LEAST).amax(1)

    def _edge(self, row: Tensor, score: Tensor) -> Tensor:
        """Return logits that every token of rows [n] reaches if its scaled logit reaches `score`.

        However that was rounded; some others reach them, too.
        """
        inverse = self.truncation.inverse.index_select(0, row).double()
        maximum = self.truncation.intervals.row_max.index_select(0, row).double()
        gap = score.double() / inverse
        slack = _ROUNDING * (gap.abs() + maximum.abs() + _NOISE / inverse)
        return (maximum + gap - slack).float()
