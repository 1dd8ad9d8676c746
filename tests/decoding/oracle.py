"""The step contract in float64 numpy, from recipe documents; shares no code with the project."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]
Mask = NDArray[np.bool_]
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

    def is_eos(self, size: int) -> Mask:
        row: Mask = np.isin(np.arange(size), list(self.eos))
        return row

    def weights(self, pairs: Sequence[tuple[int, float]], size: int) -> Row:
        row: Row = np.zeros(size)
        for token, weight in pairs:
            row[token] += weight
        return row


@dataclass
class Truncated:
    """A row while it is truncated: logits before temperature, what is left of it, its chance."""

    row: Row
    order: NDArray[np.int64]
    key: int
    position: int


def window(p: Params, c: Choice, *, instruction: bool) -> list[int]:
    """The tokens a penalty looks at."""
    seen = c.instruction + c.output if p.get("include_instruction", instruction) else c.output
    return seen[-p["window"] :] if p.get("window") else seen


def repetition(z: Row, p: Params, c: Choice) -> Row:
    seen = c.count(window(p, c, instruction=True), len(z)) > 0
    return np.where(seen, np.where(z > 0, z / p["value"], z * p["value"]), z)


def presence(z: Row, p: Params, c: Choice) -> Row:
    return z - float(p["value"]) * (c.count(window(p, c, instruction=False), len(z)) > 0)


def frequency(z: Row, p: Params, c: Choice) -> Row:
    return z - float(p["value"]) * c.count(window(p, c, instruction=False), len(z))


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
    said = b"".join(c.token_bytes[token] for token in c.output).decode(errors="replace")
    if p.get("after_sentence") and not re.search(r"[.!?…。！？][\"'”’»›)\]}*_`」』）]*\s*\Z", said):
        share = 0.0
    return z + float(p["weight"] * share) * c.is_eos(len(z))


def exponential_decay_length(z: Row, p: Params, c: Choice) -> Row:
    power = float(p["factor"] ** max(len(c.output) - p["start"], 0) - 1)
    return z + np.abs(z) * power * c.is_eos(len(z))


def dry(z: Row, p: Params, c: Choice) -> Row:
    seen = c.instruction + c.output
    seen = seen[-p["window"] :] if p.get("window") else seen
    breakers = [text.encode() for text in p.get("breakers", ["\n", ":", '"', "*"])]
    breaks = [any(text in c.token_bytes[token] for text in breakers) for token in range(len(z))]
    longest: dict[int, int] = {}
    for at in range(len(seen)):
        run = 0
        while run < at and seen[at - run - 1] == seen[len(seen) - run - 1]:
            if breaks[seen[at - run - 1]]:
                break
            run += 1
        if not breaks[seen[at]]:
            longest[seen[at]] = max(longest.get(seen[at], 0), run)
    least, base = p.get("allowed_length", 2), p.get("base", 1.75)
    for token, run in longest.items():
        if run >= least:
            z[token] -= p["multiplier"] * base ** (run - least)
    return z


def min_tokens(z: Row, p: Params, c: Choice) -> Row:
    return np.where(c.is_eos(len(z)) & (len(c.output) < p["value"]), -np.inf, z)


def no_repeat_ngram(z: Row, p: Params, c: Choice) -> Row:
    seen, n = c.instruction + c.output, p["n"]
    if len(seen) < n:
        return z
    runs = [seen[at : at + n] for at in range(len(seen) - n + 1)]
    repeats = [run[-1] for run in runs if run[:-1] == seen[len(seen) - n + 1 :]]
    return np.where(np.isin(np.arange(len(z)), repeats), -np.inf, z)


def allowed_tokens(z: Row, p: Params, c: Choice) -> Row:
    kept = {*p.get("ids", ()), *(c.eos if p.get("allow_end", True) else ())}
    kept.update(token for text in p.get("strings", ()) for token in c.ids(text))
    return np.where(np.isin(np.arange(len(z)), list(kept)), z, -np.inf)


def allowed_scripts(z: Row, p: Params, c: Choice) -> Row:
    def fits(spelled: bytes) -> bool:
        try:
            return bool(spelled) and all(
                (char.isascii() and char.isalpha()) == char.isalpha() for char in spelled.decode()
            )
        except UnicodeDecodeError:
            return False

    kept = [fits(spelled) or token in c.eos for token, spelled in enumerate(c.token_bytes)]
    return np.where(kept, z, -np.inf)


# Shape, then mask. Two do not commute: the repetition penalty is first, the decay last.
SHAPES: dict[str, Callable[[Row, Params, Choice], Row]] = {
    "repetition_penalty": repetition,
    "presence_penalty": presence,
    "frequency_penalty": frequency,
    "used_token_weight": used,
    "token_weights": token_weights,
    "logit_bias": logit_bias,
    "dry": dry,
    "eos_ramp": eos_ramp,
    "exponential_decay_length": exponential_decay_length,
    "min_tokens": min_tokens,
    "no_repeat_ngram": no_repeat_ngram,
    "allowed_tokens": allowed_tokens,
    "allowed_scripts": allowed_scripts,
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


def head(z: Row, count: int) -> Mask:
    return np.asarray(np.arange(len(z)) < max(1, count))


def entropy(p: Row) -> float:
    return -float((p * np.log(np.maximum(p, 1e-300))).sum())


def keep_top_k(z: Row, p: Params, _: Truncated) -> Mask:
    return head(z, p["k"] if p["k"] > 0 else len(z))


def keep_top_p(z: Row, p: Params, _: Truncated) -> Mask:
    # A sum of nearly 1 takes nothing away where p is 1.
    cut = int(np.searchsorted(np.cumsum(softmax(z)), p["p"])) + 1
    return head(z, cut if p["p"] < 1 else len(z))


def keep_min_p(z: Row, p: Params, _: Truncated) -> Mask:
    mass = softmax(z)
    return head(z, int((mass >= p["p"] * mass[0]).sum()))


def keep_typical(z: Row, p: Params, _: Truncated) -> Mask:
    if p["p"] >= 1:
        return head(z, len(z))
    mass = softmax(z)
    surprise = np.abs(-np.log(np.maximum(mass, 1e-300)) - entropy(mass))
    nearest = np.argsort(surprise, kind="stable")
    last = min(int((np.cumsum(mass[nearest]) < p["p"]).sum()), len(z) - 1)
    return np.asarray(surprise <= surprise[nearest[last]])


def keep_top_n_sigma(_: Row, p: Params, t: Truncated) -> Mask:
    finite = t.row[np.isfinite(t.row)]
    kept = t.row[t.order] >= finite.max() - p["n"] * finite.std()
    return head(kept, int(kept.sum()))


def keep_epsilon(z: Row, p: Params, _: Truncated) -> Mask:
    return head(z, int((softmax(z) >= p["value"]).sum()))


def keep_eta(z: Row, p: Params, _: Truncated) -> Mask:
    mass, value = softmax(z), p["value"]
    return head(z, int((mass >= min(value, value**0.5 * np.exp(-entropy(mass)))).sum()))


def keep_mirostat(z: Row, p: Params, _: Truncated) -> Mask:
    # Before anything was drawn.
    return head(z, int((-np.log2(np.maximum(softmax(z), 1e-300)) <= 2 * p.get("tau", 5)).sum()))


def keep_xtc(z: Row, p: Params, t: Truncated) -> Mask:
    top = int((softmax(z) >= p.get("threshold", 0.1)).sum())
    acts = coin(t.key, t.position) < p["probability"]
    return np.asarray(np.arange(len(z)) >= (top - 1 if acts and top > 1 else 0))


# Which tokens stay of tempered logits in descending order.
CUTS: dict[str, Callable[[Row, Params, Truncated], Mask]] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical": keep_typical,
    "top_n_sigma": keep_top_n_sigma,
    "epsilon": keep_epsilon,
    "eta": keep_eta,
    "xtc": keep_xtc,
    "mirostat": keep_mirostat,
}


def kept(z: Row, c: Choice) -> tuple[list[int], float]:
    """The tokens that truncation keeps, best first, and the temperature; 0 keeps one."""
    order = np.lexsort((np.arange(len(z)), -z))
    order = order[np.isfinite(z[order])]
    best = [int(token) for token in order[:1]]
    temperature = 1.0
    if any(rule["rule"] == "temperature" and rule["value"] == 0 for rule in c.rules):
        return best, 0.0
    for rule in c.rules:
        if rule["rule"] == "temperature":
            temperature = rule["value"]
        if rule["rule"] == "dynamic_temperature":
            share = entropy(softmax(z[order])) / np.log(len(order)) if len(order) > 1 else 0.0
            temperature = rule["low"] + (rule["high"] - rule["low"]) * max(share, 0.0) ** rule.get(
                "exponent", 1.0
            )
        if rule["rule"] in CUTS:
            row = Truncated(z, order, key_of(c.seed, c.choice), len(c.output))
            order = order[CUTS[rule["rule"]](z[order] / temperature, rule, row)]
    return [int(token) for token in order], temperature


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


def coin(key: int, position: int) -> float:
    return (philox((0, position, 0, 2), key)[0] + 0.5) * 2.0**-32


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
