"""Rows of logits of the kinds that models and bad luck produce."""

import numpy as np
from tests.kernels.oracle import Array, Chain

from bosal_kernels import Stage

KINDS = (
    "narrow",
    "normal",
    "wide",
    "zipf",
    "steep",
    "near_ties",
    "ties",
    "bf16",
    "equal",
    "model",
    "confident",
    "one_left",
    "few_left",
    "half_left",
    "tail_left",
    "high_offset",
    "low_offset",
    "huge",
)


def logits(kind: str, vocab_size: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    z: Array = rng.normal(0, 2.5, vocab_size)
    if kind == "narrow":
        z = rng.normal(0, 0.3, vocab_size)
    elif kind == "normal":
        z = rng.normal(0, 1, vocab_size)
    elif kind in ("zipf", "steep"):
        z = (-1.0 if kind == "zipf" else -2.0) * np.log(rng.permutation(vocab_size) + 1.0)
    elif kind == "near_ties":
        z = np.round(z) + rng.uniform(-1e-6, 1e-6, vocab_size)
    elif kind == "ties":
        z = np.round(z * 2) / 2
    elif kind == "bf16":
        z = (z.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    elif kind == "equal":
        z = np.full(vocab_size, rng.normal())
    elif kind == "model":
        z[rng.integers(0, vocab_size, 12)] += rng.uniform(4, 12, 12)
    elif kind == "confident":
        z[rng.integers(vocab_size)] = 18.0
    elif kind in ("one_left", "few_left"):
        kept = rng.integers(0, vocab_size, 1 if kind == "one_left" else 5)
        z = np.where(np.isin(np.arange(vocab_size), kept), z, -np.inf)
    elif kind == "half_left":
        left = rng.random(vocab_size) < 0.5
        left[rng.integers(vocab_size)] = True
        z[~left] = -np.inf
    elif kind == "tail_left":
        z[: rng.integers(vocab_size)] = -np.inf
    elif kind == "high_offset":
        z = z + 1000.0
    elif kind == "low_offset":
        z = z - 300.0
    elif kind == "huge":
        z = z * 4000.0
    return np.asarray(z, dtype=np.float32)


TEMPERATURES = (0.0, 0.1, 0.7, 1.0, 5.0)
# No round shares: with equal weights p would fall on a cut, where the last bit decides.
VALUES: dict[Stage, tuple[tuple[float, float], ...]] = {
    Stage.TOP_K: tuple((k, 0.0) for k in (0, 1, 2, 5, 20, 50, 200, 1500, 60000)),
    Stage.TOP_P: tuple((p, 0.0) for p in (0.0, 1e-3, 0.1003, 0.5021, 0.9017, 0.9503, 0.9991, 1.0)),
    Stage.MIN_P: tuple((p, 0.0) for p in (0.0, 1e-3, 0.05, 0.1, 0.3, 1.0, 1.5)),
    Stage.TYPICAL: tuple((p, 0.0) for p in (0.2013, 0.5021, 0.9017, 0.9503, 1.0)),
    Stage.TOP_N_SIGMA: tuple((n, 0.0) for n in (0.0, 0.3, 1.0, 1.5, 3.0)),
    Stage.EPSILON: tuple((e, 0.0) for e in (0.0, 3e-4, 1e-2, 0.2)),
    Stage.ETA: tuple((e, 0.0) for e in (0.0, 3e-4, 2e-3, 0.1)),
    Stage.DYNAMIC_TEMPERATURE: ((0.5, 1.5), (0.01, 3.0), (0.7, 0.7)),
    Stage.MIROSTAT: ((0.5, 0.1), (2.0, 0.1), (8.0, 0.1)),
    Stage.XTC: tuple((p, t) for p in (0.0, 0.5, 1.0) for t in (1e-4, 0.02, 0.1, 0.3, 0.6)),
}


def random_chain(seed: int, max_stages: int = 5) -> Chain:
    """A chain of distinct stages in any order, with a temperature anywhere or none."""
    rng = np.random.default_rng(seed)
    stages = rng.permutation(list(VALUES))[: rng.integers(0, max_stages + 1)]
    chain: list[tuple[Stage, float, float]] = []
    for code in stages:
        values = VALUES[Stage(code)]
        chain.append((Stage(code), *values[rng.integers(len(values))]))
    if rng.random() < 0.8 and Stage.DYNAMIC_TEMPERATURE not in stages:
        temperature = TEMPERATURES[rng.choice(5, p=[0.05, 0.2, 0.25, 0.25, 0.25])]
        where = 0 if rng.random() < 0.5 else int(rng.integers(len(chain) + 1))
        chain.insert(where, (Stage.TEMPERATURE, temperature, 0.0))
    return chain
