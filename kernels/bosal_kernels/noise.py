"""The public noise specification: philox4x32-7 words and Gumbel noise keyed by 64-token groups.

With key = the choice's key and philox counters (low word, position low, position high, purpose):

    X(h)    = -log1p(-min((f32(h) + .5) * 2^-32, 1 - 2^-24))               a standard exponential
    token t:  h = word t & 3 of counter (t >> 2, position, 0)
    group j = t >> 6:  (U, w) = words 2(j & 1) and 2(j & 1) + 1 of counter (j >> 1, position, 1)
    E_j     = X(U) / 64                                   the minimum of 64 standard exponentials
    e_t     = E_j if t & 63 == w >> 26 else E_j + X(h)
    g_t     = -ln e_t, at most N_j = -ln E_j
    coin    = word 0 of counter (0, position, 2)

A minimum of 64 exponentials sits at a uniform place and the others exceed it by independent
exponentials, so the g_t are independent Gumbel variables; yet one draw per group bounds them all.
Logarithms are taken in float64 and rounded to float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

_MASK32 = 0xFFFF_FFFF
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LARGEST_UNIFORM = 1.0 - 2.0**-24


class Purpose(IntEnum):
    """What a random word is for; part of the philox counter."""

    TOKEN = 0
    GROUP = 1
    COIN = 2


def choice_key(seed: int, choice: int) -> int:
    """Return the noise key of a choice: the seed itself for choice 0, else a splitmix64 of it."""
    if choice == 0:
        return seed & _MASK64
    state = (seed + choice * 0x9E3779B97F4A7C15) & _MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def philox4x32(counter: Sequence[Any], key: Sequence[Any], *, rounds: int = 7) -> tuple[Any, ...]:
    """Return the four output words, int64 in [0, 2^32).

    The four words of the counter and the two of the key are int64 in [0, 2^32) and broadcast: all
    tensors, or all of NumPy's arrays, which a CPU computes a fifth as long where they are small.
    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """
    first, second, third, fourth = counter
    left_key, right_key = key
    for number in range(rounds):
        if number:
            left_key, right_key = left_key + _WEYL[0], right_key + _WEYL[1]
        # Only the low 32 bits of products and keys count: what lies above is masked away.
        left, right = third * _MULTIPLIERS[1], first * _MULTIPLIERS[0]
        first = ((left >> 32) ^ second ^ left_key) & _MASK32
        third = ((right >> 32) ^ fourth ^ right_key) & _MASK32
        second, fourth = left, right
    return first, second & _MASK32, third, fourth & _MASK32


class Source:
    """Where rows draw their noise from: their choices' keys and their positions, [R] each."""

    def __init__(self, key: Tensor, position: Tensor) -> None:
        self._numbers = [
            half for whole in map(_array, (key, position)) for half in (whole, whole >> 32)
        ]

    def words(self, row: Tensor, counter: Tensor, purpose: Purpose) -> Tensor:
        """Return the four words of counters [n] of rows [n], [4, n]."""
        of_row = _array(row)
        *key, low, high = (number[of_row] & _MASK32 for number in self._numbers)
        words = philox4x32((_array(counter), low, high, int(purpose)), key)
        return torch.stack([torch.as_tensor(word) for word in words])


def _array(tensor: Tensor) -> Any:
    """Return a tensor's own memory as NumPy's array where it is on the host, else the tensor."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def exponential(word: Tensor) -> Tensor:
    """Return X(h), float32, of 32-bit words: -log1p(-u) keeps full resolution where u is small."""
    negative = word.to(torch.float32).add_(0.5).mul_(-(2.0**-32)).clamp_(min=-_LARGEST_UNIFORM)
    return negative.double().log1p_().neg_().float()


def negative_log(value: Tensor) -> Tensor:
    """Return -ln of float32 values, through float64."""
    return value.double().log_().neg_().float()


@dataclass(frozen=True, slots=True)
class GroupNoise:
    """The noise of groups: the smallest exponential, its bound and the lane where it sits."""

    smallest: Tensor  # E_j, float32
    bound: Tensor  # N_j, float32
    lane: Tensor  # [0, 64), int64

    def at(self, places: Tensor) -> Self:
        """Return the noise at places along the first axis."""
        return type(self)(self.smallest[places], self.bound[places], self.lane[places])

    def take(self, places: Tensor) -> Self:
        """Return the noise at flat places."""
        return type(self)(
            self.smallest.take(places), self.bound.take(places), self.lane.take(places)
        )


def pair_noise(source: Source, row: Tensor, pair: Tensor) -> GroupNoise:
    """Return the noise of groups 2 * pair and 2 * pair + 1 of rows, [n] -> [n, 2]."""
    word = source.words(row, pair, Purpose.GROUP)
    smallest = exponential(word[0::2]).mul_(1.0 / 64.0)
    return GroupNoise(smallest.t(), negative_log(smallest).t(), (word[1::2] >> 26).t())


def group_noise(source: Source, row: Tensor, group: Tensor) -> GroupNoise:
    """Return the noise of groups of rows, [n]."""
    noise = pair_noise(source, row, group >> 1)
    return noise.take(2 * torch.arange(len(group), device=group.device) + (group & 1))


def token_noise(source: Source, row: Tensor, token: Tensor, group: GroupNoise) -> Tensor:
    """Return g_t, float32, of tokens [n] of rows [n] given the noise of their groups [n]."""
    word = source.words(row, token >> 2, Purpose.TOKEN)
    word = word.gather(0, (token & 3)[None])[0]
    excess = exponential(word).masked_fill_(token & 63 == group.lane, 0.0)
    return negative_log(excess.add_(group.smallest))


def gumbel(key: Tensor, position: Tensor, token: Tensor) -> Tensor:
    """Return g_t of any tokens [n]: the whole specification in one call."""
    source, row = Source(key, position), torch.arange(len(token), device=token.device)
    return token_noise(source, row, token, group_noise(source, row, token >> 6))


def coin(key: Tensor, position: Tensor) -> Tensor:
    """Return a uniform in (0, 1), float64 [n], for chance that is not the draw."""
    row = torch.arange(len(key), device=key.device)
    word = Source(key, position).words(row, torch.zeros_like(row), Purpose.COIN)[0]
    return (word.double() + 0.5) * 2.0**-32
