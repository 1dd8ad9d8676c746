"""Brute force in numpy and float64: every stage over the whole sorted row, noise for every token.

Shares no code with the kernels. Only the public specification is common: scaled logits are
fl(fl(z - max z) * fl(1 / T)) in float32, scores fl(scaled + g), ties go to the lowest id.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bosal_kernels import Stage

Array = NDArray[Any]
Chain = Sequence[tuple[Stage, float, float]]


def philox(counter: Sequence[int], key: Sequence[int], rounds: int) -> list[int]:
    """One philox4x32 block, in plain integers."""
    c, k = list(counter), list(key)
    for _ in range(rounds):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (right >> 32) ^ c[1] ^ k[0],
            right % 2**32,
            (left >> 32) ^ c[3] ^ k[1],
            left % 2**32,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def philox_blocks(first: Array, position: int, purpose: int, key: int) -> Array:
    """philox4x32-7 blocks of counters (first, position, purpose), [n, 4]."""
    mask, shift = np.uint64(2**32 - 1), np.uint64(32)
    c0 = first.astype(np.uint64)
    c1 = np.full_like(c0, position % 2**32)
    c2 = np.full_like(c0, position >> 32)
    c3 = np.full_like(c0, purpose)
    k0, k1 = key % 2**32, key >> 32
    for _ in range(7):
        left, right = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (right >> shift) ^ c1 ^ np.uint64(k0), right & mask
        c2, c3 = (left >> shift) ^ c3 ^ np.uint64(k1), left & mask
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1)


def exponential(words: Array) -> Array:
    uniform = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    uniform = np.minimum(uniform, np.float32(1 - 2.0**-24))
    return np.asarray(-np.log1p(-uniform.astype(np.float64)), dtype=np.float32)


def gumbel_row(key: int, position: int, vocab_size: int) -> Array:
    """The noise of every token of a row."""
    tokens = np.arange(vocab_size)
    token_words = philox_blocks(np.arange(-(-vocab_size // 4)), position, 0, key)
    excess = exponential(token_words.reshape(-1)[:vocab_size])
    pairs = -(-vocab_size // 128)
    group_words = philox_blocks(np.arange(pairs), position, 1, key).reshape(-1, 2)
    smallest = exponential(group_words[:, 0]) / np.float32(64)
    lane = (group_words[:, 1] >> np.uint64(26)).astype(np.int64)
    group = tokens // 64
    total = np.where(
        tokens % 64 == lane[group], smallest[group], (smallest[group] + excess).astype(np.float32)
    )
    return np.asarray(-np.log(total.astype(np.float64)), dtype=np.float32)


def coin(key: int, position: int) -> float:
    word = int(philox_blocks(np.zeros(1), position, 2, key)[0, 0])
    return (word + 0.5) / 2**32


def in_order(z: Array) -> Array:
    """Tokens by (logit descending, id ascending)."""
    return np.argsort(-z, kind="stable")


def kept(z: Array, chain: Chain, key: int, position: int) -> tuple[Array, Array]:
    """What a chain keeps of a row with at least one finite logit, and its last scaled logits."""
    finite = z > -np.inf
    order = in_order(z)
    order = order[finite[order]]
    inverse = np.float32(1)

    def scale() -> Array:
        with np.errstate(over="ignore"):
            return np.asarray((z - z[order[0]]) * inverse, dtype=np.float32)

    alive = order  # ids in order; every stage keeps some of them
    for stage, value, second in chain:
        if stage == Stage.TEMPERATURE:
            inverse = np.float32(min(1 / value, 3e38))
            continue
        scaled = scale()[alive].astype(np.float64)
        weight = np.exp(scaled)
        logp = scaled - np.log(weight.sum())
        entropy = -(weight / weight.sum() * np.where(weight > 0, logp, 0)).sum()
        is_first = np.arange(len(alive)) == 0
        keep = np.ones(len(alive), dtype=bool)
        if stage == Stage.DYNAMIC_TEMPERATURE:
            share = max(entropy, 0) / np.log(len(alive)) if len(alive) > 1 else 0.0
            inverse = np.float32(1 / (value + (second - value) * min(share, 1.0)))
            continue
        if stage == Stage.MIROSTAT:
            # The limit of a choice that has said nothing yet.
            keep = -logp / np.log(2) <= 2 * value
        elif stage == Stage.TOP_K and 1 <= value < len(z):
            keep = np.arange(len(alive)) < value
        elif stage == Stage.TOP_P and value < 1:
            ahead = np.concatenate([[0.0], weight.cumsum()[:-1]])
            keep = ahead < value * weight.sum()
        elif stage == Stage.MIN_P and value > 0:
            floor = np.float32(scaled[0]) + np.float32(np.log(value))
            keep = scaled.astype(np.float32) >= floor
        elif stage == Stage.TYPICAL and value < 1:
            distance = np.abs(scaled - (weight * scaled)[weight > 0].sum() / weight.sum())
            by_distance = np.argsort(distance, kind="stable")
            taken = weight[by_distance].cumsum()
            last = min(int((taken < value * weight.sum()).sum()), len(alive) - 1)
            keep = distance <= distance[by_distance[last]]
            is_first[:] = False
        elif stage == Stage.TOP_N_SIGMA and value >= 0:
            row = z[finite].astype(np.float64)
            keep = z[alive] >= row.max() - value * row.std()
        elif stage == Stage.EPSILON and 0 < value < 1:
            keep = logp >= np.log(value)
        elif stage == Stage.ETA and 0 < value < 1:
            keep = logp >= min(np.log(value), 0.5 * np.log(value) - entropy)
        elif stage == Stage.XTC and coin(key, position) < value:
            choices = int((logp >= np.log(second)).sum())
            keep = np.arange(len(alive)) >= max(choices - 1, 0)
            is_first[:] = False
        alive = alive[keep | is_first]
    mask = np.zeros(len(z), dtype=bool)
    mask[alive] = True
    return mask, scale()


def choose(z: Array, chain: Chain, key: int, position: int) -> int:
    """The token of a row, or -1."""
    if np.isnan(z).any() or (z == np.inf).any() or not (z > -np.inf).any():
        return -1
    if any(stage == Stage.TEMPERATURE and value <= 0 for stage, value, _ in chain):
        return int(z.argmax())
    mask, scaled = kept(z, chain, key, position)
    score = (scaled + gumbel_row(key, position, len(z))).astype(np.float32)
    return int(np.where(mask, score, -np.inf).argmax())


def log_softmax(z: Array, temperature: float = 1.0) -> Array:
    x = z.astype(np.float64) / (temperature or 1.0)
    with np.errstate(over="ignore"):
        return np.asarray(x - x.max() - np.log(np.exp(x - x.max()).sum()))
