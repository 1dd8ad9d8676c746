"""Combines the rows of a group's coupled streams into the one row that is then controlled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels.groups import GroupedRows, group_max
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import log_normalizer
from bosal_kernels.resolve import certainty
from bosal_kernels.scope import Region
from bosal_kernels.streams import Combined, CombineParams, CombineState, Space

# Tokens looked at before a whole row is sorted to find its nucleus: most rows are peaked.
_NUCLEUS_GUESSES = (32, 512)
# What a guide gains when the base, too, gives its first choice some probability (BlendIn).
_AGREEMENT = 0.1


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

    Where its scope does not hold, by its base's row, a group's row is its base's, bit for bit.
    A group's row depends on its own streams alone. `is_masking` False leaves out plausibility and
    nucleus.
    """
    counts = [coupling.num_streams(slot) for slot in slots]
    if sum(counts) != len(rows):
        raise ValueError(f"{len(rows)} rows for groups of {counts} streams")
    starts = [0] * len(counts)
    for place in range(1, len(counts)):
        starts[place] = starts[place - 1] + counts[place - 1]
    base = _index(starts, rows)
    coupled = [place for place, count in enumerate(counts) if count > 1]
    if not coupled:
        return Combined(rows=rows, acted=None, streams=rows, base=base, masked=())
    own = [slots[i] for i in coupled]
    groups = _Groups(rows, coupling, state, own, [starts[i] for i in coupled])
    z, acts = groups.run(is_masking=is_masking)
    acted = torch.zeros(len(slots), dtype=torch.bool, device=rows.device)
    if len(coupled) == len(slots):
        out, acted = z, acts
    else:
        out = rows.index_select(0, base)
        where = _index(coupled, rows)
        out[where] = z
        acted[where] = acts
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
        self.base = _index(starts, rows)
        self.depth = max(one.num_streams for one in self.params)

    def run(self, *, is_masking: bool) -> tuple[Tensor, Tensor]:
        """Return the combined rows [G, V], and where the streams had a say [G]."""
        rows = self.rows
        base_rows = rows.index_select(0, self.base)
        grouped = GroupedRows(rows, group_max(rows))
        row_max = grouped.maxima.amax(1)
        best = row_max[self.base]
        normalizer = self._normalizers(grouped, row_max)
        of_base = normalizer[:, 0]
        if any(one.by_confidence or one.nucleus < 1 for one in self.params):
            plain = torch.ones(len(self.params), dtype=torch.float32, device=rows.device)
            of_base = log_normalizer(grouped, self.base, plain, best)
        acts = self._acts()
        weights = self._weights(base_rows, best, of_base, row_max, normalizer)
        z = self._sum(base_rows, weights, normalizer)
        if is_masking:
            self._mask(z, base_rows, best, of_base)
        z.masked_fill_(base_rows == -torch.inf, -torch.inf)
        z.masked_fill_(self._is_faulty(row_max)[:, None], torch.nan)
        if all(one.scope.is_always for one in self.params):
            return z, acts
        return torch.where(acts[:, None], z, base_rows), acts

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

    def _normalizers(self, grouped: GroupedRows, row_max: Tensor) -> Tensor:
        """Return every stream's logsumexp, float64 [G, depth]; 0 where nothing is normalised."""
        found = self.rows.new_zeros((len(self.slots), self.depth), dtype=torch.float64)
        pairs = [
            (group, stream)
            for group, one in enumerate(self.params)
            if one.space is not Space.LOGITS or one.by_confidence
            for stream in range(one.num_streams)
        ]
        if pairs:
            group = _index([group for group, _ in pairs], self.rows)
            stream = _index([stream for _, stream in pairs], self.rows)
            which = self.base[group] + stream
            inverse = self.coupling.inverse[self.slots[group], stream]
            found[group, stream] = log_normalizer(grouped, which, inverse, row_max[which])
        return found

    def _weights(
        self,
        base_rows: Tensor,
        best: Tensor,
        of_base: Tensor,
        row_max: Tensor,
        normalizer: Tensor,
    ) -> Tensor:
        """Return every stream's weight, float64 [G, depth]."""
        state, slots = self.coupling, self.slots
        over = state.over[slots]
        progress = torch.minimum(self.state.position[slots], over).double() / over
        begin = state.strength[slots]
        strength = begin + (state.final_strength[slots] - begin) * progress
        if any(one.by_confidence for one in self.params):
            guide = self.base + 1
            inverse = state.inverse[slots, 1].double()
            sure = (row_max[guide].double() * inverse - normalizer[:, 1]).exp()
            choice = self.rows.index_select(0, guide).argmax(1)
            agrees = (base_rows.gather(1, choice[:, None])[:, 0].double() - of_base).exp()
            share = sure / (sure + (best.double() - of_base).exp()) + _AGREEMENT * agrees
            confident = state.by_confidence[slots]
            strength = torch.where(confident, strength * share.clamp(max=1), strength)
        weights = state.weights[slots] + strength[:, None] * state.slopes[slots]
        return weights[:, : self.depth]

    def _sum(self, base_rows: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        is_mixture = [one.space is Space.PROBABILITIES for one in self.params]
        if not any(is_mixture):
            return self._linear(base_rows, weights, normalizer)
        if all(is_mixture):
            return self._mixture(base_rows, weights, normalizer)
        which = torch.tensor(is_mixture, device=base_rows.device)[:, None]
        linear = self._linear(base_rows, weights, normalizer)
        return torch.where(which, self._mixture(base_rows, weights, normalizer), linear)

    def _stream(
        self, stream: int, base_rows: Tensor, normalizer: Tensor
    ) -> tuple[Tensor | slice, Tensor]:
        """Return which groups have a stream, and its scaled and normalised rows, a copy."""
        having = [i for i, one in enumerate(self.params) if one.num_streams > stream]
        which: Tensor | slice = slice(None)
        if len(having) < len(self.params):
            which = _index(having, self.rows)
        place = self.base[which] + stream
        y = base_rows.clone() if stream == 0 else self.rows.index_select(0, place)
        if any(one.temperatures for one in self.params):
            y *= self.coupling.inverse[self.slots[which], stream, None]
        if any(one.space is not Space.LOGITS for one in self.params):
            is_plain = (self.coupling.space[self.slots[which]] == Space.LOGITS)[:, None]
            y -= normalizer[which, stream, None].masked_fill(is_plain, 0).float()
        return which, y

    def _linear(self, base_rows: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        # Products and sums apart: a fused one rounds by where an element lies in its tensor.
        _, z = self._stream(0, base_rows, normalizer)
        z *= weights[:, 0, None].float()
        for stream in range(1, self.depth):
            which, y = self._stream(stream, base_rows, normalizer)
            y *= weights[which, stream, None].float()
            z[which] += y
        return z

    def _mixture(self, base_rows: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        # In float64, whose errors vanish when the result is rounded.
        total = torch.zeros(base_rows.shape, dtype=torch.float64, device=base_rows.device)
        for stream in range(self.depth):
            which, y = self._stream(stream, base_rows, normalizer)
            total[which] += weights[which, stream, None] * y.double().exp_()
        return total.log_().float()

    def _is_faulty(self, row_max: Tensor) -> Tensor:
        """Say which groups have a stream with NaN or +inf in it, which a sum might hide."""
        faulty = torch.zeros(len(self.slots), dtype=torch.bool, device=row_max.device)
        for stream in range(self.depth):
            having = _index(
                [i for i, one in enumerate(self.params) if one.num_streams > stream], row_max
            )
            faulty[having] |= ~(row_max[self.base[having] + stream] < torch.inf)
        return faulty

    def _mask(self, z: Tensor, base_rows: Tensor, best: Tensor, of_base: Tensor) -> None:
        floor = None
        if any(one.plausibility > 0 for one in self.params):
            floor = best + self.coupling.log_plausibility[self.slots]
        narrow = [i for i, one in enumerate(self.params) if one.nucleus < 1]
        if narrow:
            which = _index(narrow, self.rows)
            edge = _nucleus_edge(
                base_rows[which], of_base[which], self.coupling.nucleus[self.slots[which]]
            )
            if floor is None:
                floor = torch.full_like(best, -torch.inf)
            floor[which] = torch.maximum(floor[which], edge)
        if floor is not None:
            z.masked_fill_(base_rows < floor[:, None], -torch.inf)


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


def _index(numbers: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)
