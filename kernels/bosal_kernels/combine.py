"""Combines the rows of a group's coupled streams into the one row that is then controlled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels.layout import SlotState
from bosal_kernels.resolve import certainty
from bosal_kernels.scope import Region
from bosal_kernels.streams import Combined, CombineParams, CombineState, Space
from bosal_kernels.transfer import numbered

# Tokens looked at before a whole row is sorted to find its nucleus: most rows are peaked.
_NUCLEUS_GUESSES = (32, 512)
# What a guide gains when the base, too, gives its first choice some probability (BlendIn).
_AGREEMENT = 0.1
# Logits summed in one call; see `_log_mass`.
_PIECE = 32_704


def combine(
    rows: Tensor,
    coupling: CombineState,
    state: SlotState,
    slots: Sequence[int],
    *,
    is_masking: bool = True,
) -> Combined:
    """Combine stream rows [R, V] (float32, contiguous, not changed) into one row a group [B, V].

    Rows lie group after group, the base first. With x_i a stream's row over its temperature,
    L the output length and b the base's greatest probability:

        s   = strength + (final_strength - strength) min(L, over) / over
        s   = s c                       by confidence, g the greatest probability of stream 1:
                                        c = min(g / (b + g) + 0.1 p_0(argmax of stream 1), 1)
        w_i = weights_i + s slopes_i
        y_i = x_i                       in logits
        y_i = x_i - logsumexp(x_i)      in log-probabilities and in probabilities
        z   = sum_i w_i y_i             in logits and in log-probabilities
        z   = log sum_i w_i exp(y_i)    in probabilities
        z   = -inf   where x_0 < max x_0 + ln plausibility, outside the base's nucleus (the
                     shortest prefix of tokens by descending probability with that mass; ties of
                     its last token stay), and where x_0 is -inf

    Where its scope does not hold, by its base's row, a group's row is its base's, bit for bit,
    whatever its other streams are; where it holds, NaN or +inf in any of them is NaN in all of it.
    A stream of weight 0 adds nothing, where it is -inf neither.
    A group's row depends on its own streams alone. `is_masking` False leaves out plausibility and
    nucleus.
    """
    counts = [coupling.num_streams(slot) for slot in slots]
    if sum(counts) != len(rows):
        raise ValueError(f"{len(rows)} rows for groups of {counts} streams")
    if len(rows) == len(counts):
        alone = numbered(len(rows), rows.device)
        return Combined(rows=rows, acted=None, streams=rows, base=alone, masked=())
    starts = [0] * len(counts)
    for place in range(1, len(counts)):
        starts[place] = starts[place - 1] + counts[place - 1]
    base = _index(starts, rows)
    coupled = [place for place, count in enumerate(counts) if count > 1]
    own = [slots[i] for i in coupled]
    groups = _Groups(rows, coupling, state, own, [starts[i] for i in coupled])
    out = rows.new_empty((len(slots), rows.shape[1]))
    for place, count in enumerate(counts):
        if count == 1:
            out[place].copy_(rows[starts[place]])
    acted = torch.zeros(len(slots), dtype=torch.bool, device=rows.device)
    acted[_index(coupled, rows)] = groups.write([out[i] for i in coupled], is_masking=is_masking)
    masked = [i for i in coupled if is_masking and _params(coupling, slots[i]).is_masking]
    return Combined(rows=out, acted=acted, streams=rows, base=base, masked=masked)


class _Groups:
    """The coupled groups of one batch."""

    def __init__(
        self,
        rows: Tensor,
        coupling: CombineState,
        state: SlotState,
        slots: Sequence[int],
        starts: Sequence[int],
    ) -> None:
        self.rows = rows
        self.coupling = coupling
        self.state = state
        self.params = [_params(coupling, slot) for slot in slots]
        self.slots = _index(slots, rows)
        self.starts = starts
        self.base = _index(starts, rows)
        self.depth = max(one.num_streams for one in self.params)
        self.row_max = rows.amax(1)
        self._scratch = rows.new_empty(rows.shape[1])

    def write(self, out: Sequence[Tensor], *, is_masking: bool) -> Tensor:
        """Fill a row [V] for each group; return where the streams had a say [G]."""
        best = self.row_max.take(self.base)
        normalizer = self._normalizers()
        of_base = normalizer[:, 0]
        if any(one.by_confidence or one.nucleus < 1 for one in self.params):
            of_base = self._log_masses(self.starts, torch.ones_like(best))
        acts = self._acts()
        weights = self._weights(best, of_base, normalizer)
        floor = self._floor(best, of_base) if is_masking else None
        # Where no base's row lacks a token, none need be looked for.
        lacks = (self._row_min() == -torch.inf).tolist()
        # Of a weight of 0 where a row is -inf would come NaN.
        has_say = (weights != 0).tolist()
        # One group at a time: its rows stay in the cache from step to step.
        for group, one in enumerate(self.params):
            base, z = self.rows[self.starts[group]], out[group]
            mix = self._mix if one.space is Space.PROBABILITIES else self._add
            heard = [stream for stream in range(one.num_streams) if has_say[group][stream]]
            mix(z, group, heard, weights[group], normalizer[group])
            if floor is not None and one.is_masking:
                z.masked_fill_(base < floor[group], -torch.inf)
            if lacks[group]:
                z.masked_fill_(base == -torch.inf, -torch.inf)
            if not one.scope.is_always:
                torch.where(acts[group], z, base, out=z)
        for group in (self._is_faulty() & acts).nonzero().squeeze(1).tolist():
            out[group].fill_(torch.nan)
        return acts

    def _row_min(self) -> Tensor:
        """Return the least logits of the bases, [G]."""
        return torch.stack([self.rows[start].amin() for start in self.starts])

    def _acts(self) -> Tensor:
        """Say where each group's scope holds, [G]."""
        coupling, slots = self.coupling, self.slots
        position, inside = self.state.position[slots], self.state.in_constraint[slots]
        region = coupling.region[slots]
        acts = (position >= coupling.after[slots]) & (position < coupling.until[slots])
        acts &= (region == Region.ANY) | ((region == Region.INSIDE) == inside)
        if any(one.scope.is_gated for one in self.params):
            top1, entropy = certainty(self.rows, self.base)
            below, above = coupling.top1_below[slots], coupling.entropy_above[slots]
            acts &= (top1 < below) | (below == torch.inf)
            acts &= (entropy > above) | (above == -torch.inf)
        return acts

    def _normalizers(self) -> Tensor:
        """Return every stream's logsumexp, float64 [G, depth]; 0 where nothing is normalised."""
        found = self.rows.new_zeros((len(self.slots), self.depth), dtype=torch.float64)
        pairs = [
            (group, stream)
            for group, one in enumerate(self.params)
            if one.space is not Space.LOGITS or one.by_confidence
            for stream in range(one.num_streams)
        ]
        if pairs:
            group, stream = _index(pairs, self.rows).unbind(1)
            places = [self.starts[group] + stream for group, stream in pairs]
            inverse = self.coupling.inverse[self.slots.take(group), stream]
            found[group, stream] = self._log_masses(places, inverse)
        return found

    def _log_masses(self, places: Sequence[int], inverse: Tensor) -> Tensor:
        """Return the logsumexps of rows times their inverse temperatures [n], float64 [n]."""
        is_warm = any(one.temperatures for one in self.params)
        sums = []
        for place, factor in zip(places, inverse, strict=True):
            # Piece by piece: torch would split more over threads, and round where it splits.
            for piece in torch.split(self.rows[place], _PIECE):
                scaled = torch.sub(piece, self.row_max[place], out=self._scratch[: len(piece)])
                if is_warm:
                    scaled.mul_(factor)
                sums.append(scaled.exp_().sum())
        mass = torch.stack(sums).view(len(places), -1).double().sum(1)
        best = self.row_max.take(_index(places, self.rows)).double()
        return mass.log() + best * inverse.double()

    def _weights(self, best: Tensor, of_base: Tensor, normalizer: Tensor) -> Tensor:
        """Return every stream's weight, float64 [G, depth]."""
        state, slots = self.coupling, self.slots
        over = state.over[slots]
        progress = torch.minimum(self.state.position[slots], over).double() / over
        begin = state.strength[slots]
        strength = begin + (state.final_strength[slots] - begin) * progress
        if any(one.by_confidence for one in self.params):
            guide = self.base + 1
            inverse = state.inverse[slots, 1].double()
            sure = (self.row_max[guide].double() * inverse - normalizer[:, 1]).exp()
            choice = self.rows.index_select(0, guide).argmax(1)
            agrees = (self.rows[self.base, choice].double() - of_base).exp()
            share = sure / (sure + (best.double() - of_base).exp()) + _AGREEMENT * agrees
            confident = state.by_confidence[slots]
            strength = torch.where(confident, strength * share.clamp(max=1), strength)
        weights = state.weights[slots] + strength[:, None] * state.slopes[slots]
        return weights[:, : self.depth]

    def _stream(self, group: int, stream: int, normalizer: Tensor, out: Tensor) -> Tensor:
        """Write a stream's scaled and normalised row to `out`, and return that."""
        row, one = self.rows[self.starts[group] + stream], self.params[group]
        if one.temperatures:
            row = torch.mul(row, self.coupling.inverse[self.slots[group], stream], out=out)
        if one.space is not Space.LOGITS:
            return torch.sub(row, normalizer[stream], out=out)
        return row if one.temperatures else out.copy_(row)

    def _add(
        self, z: Tensor, group: int, heard: Sequence[int], weights: Tensor, normalizer: Tensor
    ) -> None:
        # Products and sums apart: a fused one rounds by where an element lies in its tensor.
        if 0 in heard:
            self._stream(group, 0, normalizer, z).mul_(weights[0])
        else:
            z.zero_()
        for stream in heard:
            if stream:
                z += self._stream(group, stream, normalizer, self._scratch).mul_(weights[stream])

    def _mix(
        self, z: Tensor, group: int, heard: Sequence[int], weights: Tensor, normalizer: Tensor
    ) -> None:
        # In float64, whose errors vanish when the result is rounded.
        total = torch.zeros_like(z, dtype=torch.float64)
        for stream in heard:
            y = self._stream(group, stream, normalizer, self._scratch).double().exp_()
            total += y.mul_(weights[stream])
        z.copy_(total.log_())

    def _is_faulty(self) -> Tensor:
        """Say which groups have a stream with NaN or +inf in it, which a sum might hide."""
        is_bad = ~(self.row_max < torch.inf)
        spans = zip(self.starts, self.params, strict=True)
        return torch.stack([is_bad[start : start + one.num_streams].any() for start, one in spans])

    def _floor(self, best: Tensor, of_base: Tensor) -> Tensor:
        """Return below which logit of its base each group's row is masked, [G]."""
        floor = best + self.coupling.log_plausibility[self.slots]
        narrow = [i for i, one in enumerate(self.params) if one.nucleus < 1]
        if narrow:
            which = _index(narrow, self.rows)
            rows = self.rows.index_select(0, self.base[which])
            mass = self.coupling.nucleus[self.slots[which]]
            floor[which] = torch.maximum(floor[which], _nucleus_edge(rows, of_base[which], mass))
        return floor


def _nucleus_edge(rows: Tensor, normalizer: Tensor, mass: Tensor) -> Tensor:
    """Return the logit of the last token of each row's nucleus, [n]."""
    edge = torch.empty_like(normalizer, dtype=torch.float32)
    pending = torch.arange(len(rows), device=rows.device)
    size = rows.shape[1]
    for width in (*(guess for guess in _NUCLEUS_GUESSES if guess < size), size):
        chosen = rows[pending]
        if width < size:
            values = chosen.topk(width, dim=1).values
        else:
            values = chosen.sort(dim=1, descending=True).values
        reached = (values.double() - normalizer[pending, None]).exp_().cumsum(1)
        is_short = reached < mass[pending, None]
        last = is_short.sum(1).clamp(max=width - 1)
        edge[pending] = values.gather(1, last[:, None])[:, 0]
        pending = pending[is_short[:, -1]]
        if len(pending) == 0:
            break
    return edge


def _params(state: CombineState, slot: int) -> CombineParams:
    params = state.params[slot]
    assert params is not None
    return params


def _index(numbers: Sequence[int] | Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)
