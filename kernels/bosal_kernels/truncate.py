"""Applies truncation chains to intervals, vectorised over rows: one call per place and stage."""

from collections.abc import Callable, Mapping
from math import log
from types import MappingProxyType

import torch
from torch import Tensor

from bosal_kernels.cut import last_kept
from bosal_kernels.floats import (
    clamped_key,
    descending_key,
    rounded_up,
    value_of_descending_key,
)
from bosal_kernels.groups import (
    GROUP,
    GroupedRows,
    sum_by_row,
    weights,
)
from bosal_kernels.interval import Intervals
from bosal_kernels.logprobs import nth_tokens
from bosal_kernels.noise import coin
from bosal_kernels.params import Stage

# Up to this many tokens a top-k is enumerated from the best groups.
_MAX_ENUMERATED = 1024
# Stages that ask neither mass nor entropy of what an earlier top-p left.
_INDIFFERENT = (Stage.NONE, Stage.TEMPERATURE, Stage.TOP_K, Stage.MIN_P, Stage.TOP_N_SIGMA)
# Parts into which a range of floats is cut in one step of a search.
_FAN = 64
# More than sums of float32 are off by.
_LEEWAY = 1e-4
# A temperature so small that its inverse overflows keeps the order all the same.
_LARGEST_INVERSE = 3e38


class Truncation:
    """What the chains of a batch leave of the rows that sample.

    A top-p whose successors do not need its result stays pending: `pending_mass` is the mass that
    may lie ahead of a kept token, tested on drawn tokens only. That of a whole row is NaN until a
    test needs it: most tokens pass by a bound.
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
        # Inverse temperature at the current place of the chain; after it, the draw's.
        self.inverse = torch.ones_like(row_max)
        self.pending_mass = torch.full_like(row_max, torch.inf, dtype=torch.float64)
        self.pending_share = torch.ones_like(self.pending_mass)
        self.pending_inverse = torch.ones_like(row_max)

    def run(self, stages: Tensor, values: Tensor, seconds: Tensor) -> None:
        """Apply the chains of the sampling rows, [R, MAX_STAGES] each."""
        first_values, second_values = values.tolist(), seconds.tolist()
        calls: dict[tuple[int, int, bool], list[tuple[int, float, float]]] = {}
        for row, chain in enumerate(stages.tolist()):
            # Whether any later stage needs the set a top-p leaves.
            asks_later = False
            for place in reversed(range(len(chain))):
                stage = chain[place]
                value, second = first_values[row][place], second_values[row][place]
                if stage != Stage.NONE and self._is_on(stage, value):
                    calls.setdefault((place, stage, asks_later), []).append((row, value, second))
                asks_later = asks_later or stage not in _INDIFFERENT
        device = self.place.device
        for place, stage, asks_later in sorted(calls):
            which, value, second = zip(*calls[place, stage, asks_later], strict=True)
            _APPLY[Stage(stage)](
                self,
                torch.tensor(which, device=device),
                torch.tensor(value, dtype=torch.float64, device=device),
                torch.tensor(second, dtype=torch.float64, device=device),
                asks_later,
            )

    def _is_on(self, stage: int, value: float) -> bool:
        """Tell whether a stage does anything."""
        if stage == Stage.TOP_K:
            return 1 <= value < self.rows.vocab_size
        if stage in (Stage.TOP_P, Stage.TYPICAL):
            return value < 1
        if stage == Stage.MIN_P:
            return value > 0
        if stage == Stage.TOP_N_SIGMA:
            return value >= 0
        if stage in (Stage.EPSILON, Stage.ETA):
            return 0 < value < 1
        return True

    def temperature(self, which: Tensor, value: Tensor, *_: object) -> None:
        """scaled = (z - max z) / T from here on; T > 0."""
        self.inverse[which] = (1.0 / value).clamp(max=_LARGEST_INVERSE).float()

    def top_k(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep the k first tokens. Source: Fan et al., Hierarchical Neural Story Generation (2018).

        k <= 0 and k >= V are off.
        """
        is_listed = value <= _MAX_ENUMERATED
        if self.intervals.is_cut:
            is_listed &= self.intervals.high_value[which] == torch.inf
        listed = which[is_listed]
        if len(listed):
            count = value[is_listed].long()
            last_tokens = nth_tokens(self.rows, self.place[listed], count)
            self.intervals.raise_floor(listed, *last_tokens)
        if len(listed) < len(which):
            rest = which[~is_listed]
            inside = self.intervals.tokens(rest)
            one = torch.ones_like(inside.row, dtype=torch.float64)
            key = descending_key(inside.value)
            last = last_kept(inside.row, key, one, value[~is_listed].floor(), key_bits=32)
            self.intervals.raise_floor(rest, inside.value[last], inside.token[last])

    def top_p(self, which: Tensor, value: Tensor, _second: Tensor, asks_later: bool) -> None:
        """Keep a token while the mass ahead of it is less than p times the mass of the set.

        Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020). p >= 1 is off;
        the first token stays.
        """
        inverse = self.inverse[which]
        if asks_later:
            self._cut_mass(which, value * self.intervals.mass(which, inverse))
            return
        self.pending_share[which] = value
        self.pending_inverse[which] = inverse
        target = torch.full_like(value, torch.nan)
        summed = (~self.intervals.is_whole(which)).nonzero().squeeze(1)
        if len(summed):
            mass = self.intervals.mass(which[summed], inverse[summed])
            target[summed] = value[summed] * mass
        self.pending_mass[which] = target

    def is_left_out(self, which: Tensor, value: Tensor, token: Tensor) -> Tensor:
        """Tell which of the tokens of rows `which` [k] their pending top-p leaves out."""
        inverse, share = self.pending_inverse[which], self.pending_share[which]
        target = self.pending_mass[which]
        ahead, read = self.intervals.mass_ahead(which, inverse, value, token)
        is_open = target.isnan()
        if not bool(is_open.any()):
            return ahead >= target
        rest = self.intervals.best_mass_behind(which, inverse, value)
        is_kept = ahead < share * (read + rest) * (1 - _LEEWAY)
        is_left_out = ahead >= share * (read + GROUP * rest) * (1 + _LEEWAY)
        unsure = (is_open & ~is_kept & ~is_left_out).nonzero().squeeze(1)
        if len(unsure):
            rows = which[unsure]
            target[unsure] = share[unsure] * self.intervals.row_mass(rows, inverse[unsure])
            self.pending_mass[rows] = target[unsure]
        return torch.where(target.isnan(), is_left_out, ahead >= target)

    def min_p(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep scaled >= scaled of the first token + ln p.

        Source: Nguyen et al., Turning Up the Heat: Min-p Sampling (2024). p <= 0 is off.
        """
        first = self.intervals.offset(which, self.inverse[which])
        self._raise_scaled_floor(which, first + value.log().float())

    def typical(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep the tokens whose surprise is nearest to the entropy until their mass reaches tau.

        With c the expected scaled logit, tokens are taken by |scaled - c|, whole ties at a time.
        Source: Meister et al., Locally Typical Sampling (2023). tau >= 1 is off.
        """
        intervals, inverse = self.intervals, self.inverse[which]
        mass, moment = intervals.mass_and_moment(which, inverse)
        centre = moment / mass
        inside = intervals.tokens(which)
        scaled = intervals.relative(which[inside.row], inverse[inside.row], inside.value)
        distance = (scaled.double() - centre[inside.row]).abs()
        # The bits of a non-negative float64 are ordered as its values.
        bits = (distance + 0.0).view(torch.int64)
        last = last_kept(inside.row, bits, _token_weights(scaled), value * mass, key_bits=64)
        kept = inside.where(bits <= bits[last][inside.row])
        intervals.lower_ceiling(which, *kept.first(len(which)))
        intervals.raise_floor(which, *kept.last(len(which)))

    def top_n_sigma(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep z >= max z - n sd, with the population deviation of the whole finite row.

        Source: Tang et al., Top-n-sigma: Not All Logits Are You Need (2024). n < 0 is off.
        """
        row_max = self.intervals.row_max[which]
        row, group = (self.intervals.maxima[which] > -torch.inf).nonzero(as_tuple=True)
        numbers, sums, squares = [], [], []
        for span, values in self.rows.chunks(self.place[which[row]], group):
            is_finite = values > -torch.inf
            # Shifted by the row's maximum, so that large offsets cost no digits.
            shifted = values.sub_(row_max[row[span], None]).masked_fill_(~is_finite, 0.0).double()
            numbers.append(is_finite.sum(1))
            sums.append(shifted.sum(1))
            squares.append(shifted.square_().sum(1))
        shape = (len(which), self.rows.num_groups)
        number = sum_by_row(row, group, numbers, shape)
        mean = sum_by_row(row, group, sums, shape) / number
        variance = sum_by_row(row, group, squares, shape) / number - mean.square()
        threshold = row_max.double() - value * variance.clamp(min=0.0).sqrt()
        self.intervals.raise_floor(which, rounded_up(threshold))

    def epsilon(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep tokens of probability at least eps, and the first.

        Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022).
        """
        mass = self.intervals.mass(which, self.inverse[which])
        self._raise_relative_floor(which, value.log() + mass.log())

    def eta(self, which: Tensor, value: Tensor, *_: object) -> None:
        """Keep tokens of probability at least min(eps, sqrt(eps) exp(-entropy)), and the first.

        Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022).
        """
        mass, moment = self.intervals.mass_and_moment(which, self.inverse[which])
        log_eps, entropy = value.log(), mass.log() - moment / mass
        threshold = torch.minimum(log_eps, 0.5 * log_eps - entropy)
        self._raise_relative_floor(which, threshold + mass.log())

    def xtc(self, which: Tensor, value: Tensor, second: Tensor, _asks_later: bool) -> None:
        """With some probability drop all tokens of at least `threshold` but the last of them.

        Source: p-e-w, Exclude Top Choices (text-generation-webui 6335, 2024).
        """
        is_on = coin(self.key[which], self.position[which]) < value
        which, threshold = which[is_on], second[is_on]
        if len(which) == 0:
            return
        intervals, inverse = self.intervals, self.inverse[which]
        mass = intervals.mass(which, inverse)
        first = intervals.offset(which, inverse).double()
        edge = self._least_logit(which, rounded_up(first + threshold.log() + mass.log()))
        choices = intervals.tokens(which, edge)
        has_two = torch.bincount(choices.row, minlength=len(which)) >= 2
        value, token = choices.last(len(which))
        intervals.lower_ceiling(which[has_two], value[has_two], token[has_two])

    def dynamic_temperature(
        self, which: Tensor, value: Tensor, second: Tensor, _asks_later: bool
    ) -> None:
        """T = low + (high - low) (H / ln n)^exponent, H the entropy of the n tokens left so far.

        One token left has T = low. Source: kalomaze, Dynamic Temperature (text-generation-webui
        4824, 2023); temp_ext of llama.cpp.
        """
        assert self.exponent is not None
        mass, moment = self.intervals.mass_and_moment(which, self.inverse[which])
        entropy = (mass.log() - moment / mass).clamp(min=0.0)
        number = self.intervals.count(which)
        share = torch.where(number > 1, entropy / number.log(), 0.0).clamp(max=1.0)
        heat = value + (second - value) * share ** self.exponent[which]
        self.inverse[which] = (1.0 / heat).clamp(max=_LARGEST_INVERSE).float()

    def mirostat(self, which: Tensor, *_: object) -> None:
        """Keep tokens whose surprise -log2 p is at most the slot's limit, and the first.

        Source: Basu et al., Mirostat (2021), version 2 as in llama.cpp.
        """
        assert self.surprise is not None
        mass = self.intervals.mass(which, self.inverse[which])
        self._raise_relative_floor(which, mass.log() - self.surprise[which] * log(2))

    def surprise_of(self, which: Tensor, token: Tensor) -> Tensor:
        """Return -log2 p of tokens among what their rows `which` [k] have left, float64 [k]."""
        inverse = self.inverse[which]
        value = self.rows.at(self.place[which], token)
        scaled = self.intervals.relative(which, inverse, value).double()
        return (self.intervals.mass(which, inverse).log() - scaled) / log(2)

    def _cut_mass(self, which: Tensor, target: Tensor) -> None:
        """Drop all behind the token at which the mass ahead reaches the target [k]."""
        inside = self.intervals.tokens(which)
        scaled = self.intervals.relative(
            which[inside.row], self.inverse[which][inside.row], inside.value
        )
        key, weight = descending_key(inside.value), _token_weights(scaled)
        last = last_kept(inside.row, key, weight, target, key_bits=32)
        self.intervals.raise_floor(which, inside.value[last], inside.token[last])

    def _raise_relative_floor(self, which: Tensor, floor: Tensor) -> None:
        """Drop what scales to less than a float64 floor above the first token's."""
        first = self.intervals.offset(which, self.inverse[which])
        self._raise_scaled_floor(which, rounded_up(first.double() + floor))

    def _raise_scaled_floor(self, which: Tensor, floor: Tensor) -> None:
        self.intervals.raise_floor(which, self._least_logit(which, floor))

    def _least_logit(self, which: Tensor, floor: Tensor) -> Tensor:
        """Return the least float32 z with scaled(z) >= floor, by search over the floats."""
        inverse = self.inverse[which, None]
        row_max = self.intervals.row_max[which, None]
        floor = floor[:, None]
        guess = row_max.double() + floor.double() / inverse.double()
        slack = 3e-7 * (row_max.abs() + guess.abs()) + 1e-37
        # Keys descend: `low` belongs to a logit that passes, `high` to one that does not.
        keys = clamped_key(torch.cat([guess + slack, guess - slack], 1))
        low, high = keys[:, :1], keys[:, 1:]
        steps = torch.arange(1, _FAN, device=which.device)
        while True:
            # Cut each range in equal parts and keep the part in which passing ends.
            widest = int((high - low).max())
            stride = -(-widest // _FAN)
            key = low + steps * stride
            passes = (value_of_descending_key(key) - row_max) * inverse >= floor
            low = low + passes.sum(1, keepdim=True) * stride
            if stride <= 1:
                return value_of_descending_key(low.squeeze(1))
            high = low + stride


def _token_weights(scaled: Tensor) -> Tensor:
    """Return exp of scaled logits [m] as float64, bit for bit as `weights` of whole groups."""
    missing = -len(scaled) % 64
    padded = torch.nn.functional.pad(scaled, (0, missing)).view(-1, 64)
    return weights(padded).view(-1)[: len(scaled)].double()


_Apply = Callable[[Truncation, Tensor, Tensor, Tensor, bool], None]
_APPLY: Mapping[Stage, _Apply] = MappingProxyType(
    {
        Stage.TEMPERATURE: Truncation.temperature,
        Stage.TOP_K: Truncation.top_k,
        Stage.TOP_P: Truncation.top_p,
        Stage.MIN_P: Truncation.min_p,
        Stage.TYPICAL: Truncation.typical,
        Stage.TOP_N_SIGMA: Truncation.top_n_sigma,
        Stage.EPSILON: Truncation.epsilon,
        Stage.ETA: Truncation.eta,
        Stage.XTC: Truncation.xtc,
        Stage.DYNAMIC_TEMPERATURE: Truncation.dynamic_temperature,
        Stage.MIROSTAT: Truncation.mirostat,
    }
)
