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

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Self

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


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor],
    key: tuple[Tensor, Tensor],
    *,
    rounds: int = 7,
) -> Tensor:
    """Return the four output words, [4, ...] int64 in [0, 2^32).

    All inputs are int64 in [0, 2^32) and broadcast to the shape of the first counter word.
    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """
    # The two lanes of a round in one tensor; `even` is (c0, c2), `odd` is (c1, c3). Only the low
    # 32 bits of `odd` and of the keys count: what lies above is masked with the next `even`.
    even = torch.stack([counter[0], counter[2].expand_as(counter[0])])
    odd = torch.stack([counter[1], counter[3]])
    return _philox(even, odd, torch.stack(key), rounds)


def _philox(even: Tensor, odd: Tensor, keys: Tensor, rounds: int = 7) -> Tensor:
    """Run the rounds on lanes [2, ...]; `even` and `keys` are overwritten."""
    first, second = even.unbind()
    # An odd half outlives its round by one.
    products = [torch.empty_like(even), torch.empty_like(even)]
    halves = [product.unbind() for product in products]
    weyl = _weyl(even.device, even.dim())
    for number in range(rounds):
        if number:
            keys += weyl
        product, (left, right) = products[number % 2], halves[number % 2]
        torch.mul(second, _MULTIPLIERS[1], out=left)
        torch.mul(first, _MULTIPLIERS[0], out=right)
        torch.bitwise_right_shift(product, 32, out=even)
        even.bitwise_xor_(odd).bitwise_xor_(keys).bitwise_and_(_MASK32)
        odd = product
    odd.bitwise_and_(_MASK32)
    return torch.stack([even, odd], 1).flatten(0, 1)


@lru_cache(maxsize=8)
def _weyl(device: torch.device, num_dims: int) -> Tensor:
    """What the keys grow by in a round."""
    return torch.tensor(_WEYL, device=device).view((2,) + (1,) * (num_dims - 1))


class Source:
    """Where rows draw their noise from: their choices' keys and their positions, [R] each."""

    def __init__(self, key: Tensor, position: Tensor) -> None:
        self._keys = torch.stack([key, key >> 32]).bitwise_and_(_MASK32)
        self._position = torch.stack([position, position >> 32]).bitwise_and_(_MASK32)

    def words(self, row: Tensor, counter: Tensor, purpose: Purpose) -> Tensor:
        """Return the four words of counters [n] of rows [n], [4, n]."""
        low, high = self._position.index_select(1, row)
        return _philox(
            torch.stack([counter, high]),
            torch.stack([low, torch.full_like(low, int(purpose))]),
            self._keys.index_select(1, row),
        )


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
