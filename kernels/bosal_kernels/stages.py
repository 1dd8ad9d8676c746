"""The truncations, one function each: what a stage keeps of rows, as intervals of their order.

Each takes a batch's `Truncation`, the rows `which` [k] of it that the stage is on for, and the
stage's two numbers for each of them, float64 [k].
"""

from math import log

import torch
from torch import Tensor

from bosal_kernels.cut import last_kept
from bosal_kernels.floats import descending_key, rounded_up
from bosal_kernels.groups import GROUP, sum_by_row, weights
from bosal_kernels.noise import coin
from bosal_kernels.truncation import Truncation

# A temperature so small that its inverse overflows keeps the order all the same.
_LARGEST_INVERSE = 3e38


def temperature(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """scaled = (z - max z) / T from here on; T > 0."""
    left.inverse[which] = (1.0 / value).clamp(max=_LARGEST_INVERSE).float()


def top_k(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep the k first tokens. Source: Fan et al., Hierarchical Neural Story Generation (2018).

    k <= 0 and k >= V are off.
    """
    inside = left.intervals.tokens(which)
    one = torch.ones_like(inside.row, dtype=torch.float64)
    key = descending_key(inside.value)
    last = last_kept(inside.row, key, one, value.floor(), key_bits=32)
    left.intervals.raise_floor(which, inside.value[last], inside.token[last])


def short_top_k(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep the k first tokens of rows that have not lost their top; k is small."""
    left.shortlist.list(which, value.long())


def top_p(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep a token while the mass ahead of it is less than p times the mass of the set.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020). p >= 1 is off;
    the first token stays.
    """
    inside, inverse = left.intervals.tokens(which), left.inverse[which]
    scaled = left.intervals.relative(which[inside.row], inverse[inside.row], inside.value)
    key, weight = descending_key(inside.value), _token_weights(scaled)
    target = value * left.intervals.mass(which, inverse)
    last = last_kept(inside.row, key, weight, target, key_bits=32)
    left.intervals.raise_floor(which, inside.value[last], inside.token[last])


def listed_top_p(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Do what `top_p` does in rows that `short_top_k` has listed."""
    left.shortlist.cut_mass(which, left.inverse[which], value)


def pending_top_p(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Do what `top_p` does when tokens are drawn."""
    left.nucleus.put(which, left.inverse[which], value)


def min_p(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep scaled >= scaled of the first token + ln p.

    Source: Nguyen et al., Turning Up the Heat: Min-p Sampling (2024). p <= 0 is off.
    """
    first = left.intervals.offset(which, left.inverse[which])
    left.raise_scaled_floor(which, first + value.log().float())


def typical(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep the tokens whose surprise is nearest to the entropy until their mass reaches tau.

    With c the expected scaled logit, tokens are taken by |scaled - c|, whole ties at a time.
    Source: Meister et al., Locally Typical Sampling (2023). tau >= 1 is off.
    """
    intervals, inverse = left.intervals, left.inverse[which]
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


def top_n_sigma(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep z >= max z - n sd, with the population deviation of the whole finite row.

    Source: Tang et al., Top-n-sigma: Not All Logits Are You Need (2024). n < 0 is off.
    """
    row_max = left.intervals.row_max[which]
    row, group = (left.intervals.maxima[which] > -torch.inf).nonzero(as_tuple=True)
    numbers, sums, squares = [], [], []
    for span, values in left.rows.chunks(left.place[which[row]], group):
        is_finite = values > -torch.inf
        # Shifted by the row's maximum, so that large offsets cost no digits.
        shifted = values.sub_(row_max[row[span], None]).masked_fill_(~is_finite, 0.0).double()
        numbers.append(is_finite.sum(1))
        sums.append(shifted.sum(1))
        squares.append(shifted.square_().sum(1))
    shape = (len(which), left.rows.num_groups)
    number = sum_by_row(row, group, numbers, shape)
    mean = sum_by_row(row, group, sums, shape) / number
    variance = sum_by_row(row, group, squares, shape) / number - mean.square()
    threshold = row_max.double() - value * variance.clamp(min=0.0).sqrt()
    left.intervals.raise_floor(which, rounded_up(threshold))


def epsilon(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep tokens of probability at least eps, and the first.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022).
    """
    mass = left.intervals.mass(which, left.inverse[which])
    left.raise_relative_floor(which, value.log() + mass.log())


def eta(left: Truncation, which: Tensor, value: Tensor, _: Tensor) -> None:
    """Keep tokens of probability at least min(eps, sqrt(eps) exp(-entropy)), and the first.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022).
    """
    mass, moment = left.intervals.mass_and_moment(which, left.inverse[which])
    log_eps, entropy = value.log(), mass.log() - moment / mass
    threshold = torch.minimum(log_eps, 0.5 * log_eps - entropy)
    left.raise_relative_floor(which, threshold + mass.log())


def xtc(left: Truncation, which: Tensor, value: Tensor, second: Tensor) -> None:
    """With some probability drop all tokens of at least `threshold` but the last of them.

    Source: p-e-w, Exclude Top Choices (text-generation-webui 6335, 2024).
    """
    is_on = coin(left.key[which], left.position[which]) < value
    which, threshold = which[is_on], second[is_on]
    if len(which) == 0:
        return
    intervals, inverse = left.intervals, left.inverse[which]
    mass = intervals.mass(which, inverse)
    first = intervals.offset(which, inverse).double()
    edge = left.least_logit(which, rounded_up(first + threshold.log() + mass.log()))
    choices = intervals.tokens(which, edge)
    has_two = torch.bincount(choices.row, minlength=len(which)) >= 2
    value, token = choices.last(len(which))
    intervals.lower_ceiling(which[has_two], value[has_two], token[has_two])


def dynamic_temperature(left: Truncation, which: Tensor, value: Tensor, second: Tensor) -> None:
    """T = low + (high - low) (H / ln n)^exponent, H the entropy of the n tokens left so far.

    One token left has T = low. Source: kalomaze, Dynamic Temperature (text-generation-webui
    4824, 2023); temp_ext of llama.cpp.
    """
    assert left.exponent is not None
    mass, moment = left.intervals.mass_and_moment(which, left.inverse[which])
    entropy = (mass.log() - moment / mass).clamp(min=0.0)
    number = left.intervals.count(which)
    share = torch.where(number > 1, entropy / number.log(), 0.0).clamp(max=1.0)
    heat = value + (second - value) * share ** left.exponent[which]
    left.inverse[which] = (1.0 / heat).clamp(max=_LARGEST_INVERSE).float()


def mirostat(left: Truncation, which: Tensor, _value: Tensor, _second: Tensor) -> None:
    """Keep tokens whose surprise -log2 p is at most the slot's limit, and the first.

    Source: Basu et al., Mirostat (2021), version 2 as in llama.cpp.
    """
    assert left.surprise is not None
    mass = left.intervals.mass(which, left.inverse[which])
    left.raise_relative_floor(which, mass.log() - left.surprise[which] * log(2))


def _token_weights(scaled: Tensor) -> Tensor:
    """Return exp of scaled logits [m] as float64, bit for bit as `weights` of whole groups."""
    missing = -len(scaled) % GROUP
    padded = torch.nn.functional.pad(scaled, (0, missing)).view(-1, GROUP)
    return weights(padded).view(-1)[: len(scaled)].double()
