"""The step contract in float64 numpy, from recipe documents; shares no code with the project."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]
Params = dict[str, Any]


@dataclass
class Choice:
    """What a row's result may depend on."""

    document: dict[str, Any]
    token_bytes: Sequence[bytes]
    eos: Sequence[int]
    seed: int = 0
    choice: int = 0
    instruction: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)

    @property
    def rules(self) -> list[Params]:
        return list(self.document.get("rules", []))

    def ids(self, text: str) -> list[int]:
        return [token for token, spelled in enumerate(self.token_bytes) if spelled == text.encode()]

    def count(self, tokens: Sequence[int], size: int) -> Row:
        row: Row = np.bincount(np.array(tokens, dtype=np.int64), minlength=size).astype(np.float64)
        return row

    def is_eos(self, size: int) -> NDArray[np.bool_]:
        row: NDArray[np.bool_] = np.isin(np.arange(size), list(self.eos))
        return row

    def weights(self, pairs: Sequence[tuple[int, float]], size: int) -> Row:
        row: Row = np.zeros(size)
        for token, weight in pairs:
            row[token] += weight
        return row


def repetition(z: Row, p: Params, c: Choice) -> Row:
    seen = c.count(c.instruction + c.output, len(z)) > 0
    return np.where(seen, np.where(z > 0, z / p["value"], z * p["value"]), z)


def presence(z: Row, p: Params, c: Choice) -> Row:
    return z - float(p["value"]) * (c.count(c.output, len(z)) > 0)


def frequency(z: Row, p: Params, c: Choice) -> Row:
    return z - float(p["value"]) * c.count(c.output, len(z))


def used(z: Row, p: Params, c: Choice) -> Row:
    tokens = c.output + (c.instruction if p.get("include_instruction") else [])
    return z + float(p["weight"]) * (c.count(tokens, len(z)) > 0)


def token_weights(z: Row, p: Params, c: Choice) -> Row:
    return z + c.weights([(t, w) for s, w in p["weights"].items() for t in c.ids(s)], len(z))


def logit_bias(z: Row, p: Params, c: Choice) -> Row:
    by_id = [(int(token), weight) for token, weight in p.get("ids", {}).items()]
    by_string = [(t, w) for s, w in p.get("strings", {}).items() for t in c.ids(s)]
    return z + c.weights(by_id + by_string, len(z))


def eos_ramp(z: Row, p: Params, c: Choice) -> Row:
    share = min(len(c.output), p["over"]) / p["over"]
    return z + float(p["weight"] * share) * c.is_eos(len(z))


def min_tokens(z: Row, p: Params, c: Choice) -> Row:
    return np.where(c.is_eos(len(z)) & (len(c.output) < p["value"]), -np.inf, z)


# Shape, then mask; of these only the repetition penalty does not commute, and it comes first.
SHAPES: dict[str, Callable[[Row, Params, Choice], Row]] = {
    "repetition_penalty": repetition,
    "presence_penalty": presence,
    "frequency_penalty": frequency,
    "used_token_weight": used,
    "token_weights": token_weights,
    "logit_bias": logit_bias,
    "eos_ramp": eos_ramp,
    "min_tokens": min_tokens,
}


def controlled(logits: Row, c: Choice) -> Row:
    z = logits.astype(np.float64)
    params = {rule["rule"]: rule for rule in c.rules}
    for name, shape in SHAPES.items():
        if name in params:
            z = shape(z, params[name], c)
    return z


def softmax(z: Row) -> Row:
    mass: Row = np.exp(z - z.max())
    return mass / float(mass.sum())


def keep_top_k(z: Row, p: Params) -> int:
    return p["k"] if p["k"] > 0 else len(z)


def keep_top_p(z: Row, p: Params) -> int:
    return int(np.searchsorted(np.cumsum(softmax(z)), p["p"])) + 1


def keep_min_p(z: Row, p: Params) -> int:
    mass = softmax(z)
    return int((mass >= p["p"] * mass[0]).sum())


# How many tokens of a row in descending order stay.
CUTS: dict[str, Callable[[Row, Params], int]] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
}


def kept(z: Row, c: Choice) -> tuple[list[int], float]:
    """The tokens that truncation keeps, best first, and the temperature; 0 keeps one."""
    order = [int(token) for token in np.lexsort((np.arange(len(z)), -z)) if np.isfinite(z[token])]
    temperature = 1.0
    for rule in c.rules:
        if rule["rule"] == "temperature":
            temperature = rule["value"]
        if temperature == 0:
            return order[:1], 0.0
        if rule["rule"] in CUTS:
            order = order[: max(1, CUTS[rule["rule"]](z[order] / temperature, rule))]
    return order, temperature


def key_of(seed: int, choice: int) -> int:
    mask = 2**64 - 1
    if choice == 0:
        return seed & mask
    x = (seed + choice * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def philox(counter: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    a, b, c, d = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(7):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (right >> 32) ^ b ^ k0,
            right & 0xFFFFFFFF,
            (left >> 32) ^ d ^ k1,
            left & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def exponential(word: int) -> float:
    uniform = (float(np.float32(word)) + 0.5) * 2.0**-32
    return -float(np.log1p(-min(uniform, 1 - 2.0**-24)))


def gumbel(token: int, position: int, key: int) -> float:
    group = token >> 6
    words = philox((group >> 1, position, 0, 1), key)
    smallest = exponential(words[2 * (group & 1)]) / 64
    place = words[2 * (group & 1) + 1] >> 26
    if token & 63 == place:
        return -float(np.log(smallest))
    word = philox((token >> 2, position, 0, 0), key)[token & 3]
    return -float(np.log(smallest + exponential(word)))


def scores(z: Row, c: Choice) -> dict[int, float]:
    """The score of every token that may be drawn."""
    tokens, temperature = kept(z, c)
    if temperature == 0:
        return {tokens[0]: 0.0}
    key, position = key_of(c.seed, c.choice), len(c.output)
    return {
        token: (z[token] - z.max()) / temperature + gumbel(token, position, key) for token in tokens
    }
