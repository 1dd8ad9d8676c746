"""Choices of the same few rules, on in one and off in its neighbour, over kernels and torch alike.

What is off keeps its other parameters: nothing may come of them, for it or for those beside it.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tests.decoding.fused_pipeline import VOCABULARY, WIDTH, check, plan_of

from bosal_decoding.pipeline import Pipeline

# Of every rule: parameters by which it does something, then some by which it does nothing.
VARIANTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "repetition_penalty": (
        [{"value": 1.4}, {"value": 1.4, "window": 3}, {"value": 0.7, "include_instruction": False}],
        [{"value": 1.0, "window": 2}, {"value": 1.0, "include_instruction": False}],
    ),
    "presence_penalty": (
        [{"value": 1.5}, {"value": -1.5, "window": 3}],
        [{"value": 0.0, "window": 2, "include_instruction": True}],
    ),
    "frequency_penalty": (
        [{"value": 0.5}, {"value": 0.5, "include_instruction": True}],
        [{"value": 0.0, "window": 2}, {"value": 0.0, "include_instruction": True}],
    ),
    "used_token_weight": (
        [{"weight": 2.0}, {"weight": -2.0, "include_instruction": True}],
        [{"weight": 0.0, "include_instruction": True}],
    ),
    "no_repeat_ngram": ([{"n": 2}, {"n": 3}], [{"n": 64}]),
    "dry": (
        [{"multiplier": 3.0}, {"multiplier": 2.0, "allowed_length": 1, "breakers": ["a"]}],
        [{"multiplier": 0.0, "window": 3, "breakers": ["a"]}, {"multiplier": 1.0, "window": 1}],
    ),
    "token_weights": ([{"weights": {"I": 4.0}}], [{"weights": {"I": 0.0}}]),
    "logit_bias": ([{"ids": {"31": 2.5, "7": -2.0}}], [{"ids": {"31": 0.0}}]),
    "eos_ramp": (
        [{"weight": 6.0, "over": 8}],
        [{"weight": 0.0, "over": 1, "after_sentence": True}],
    ),
    "exponential_decay_length": (
        [{"start": 2, "factor": 1.6}],
        [{"start": 0, "factor": 1.0}, {"start": 4000, "factor": 2.0}],
    ),
    "min_tokens": ([{"value": 9}], [{"value": 0}]),
    "top_k": ([{"k": 3}, {"k": 40}], [{"k": 0}, {"k": VOCABULARY.size}, {"k": 2**31 - 1}]),
    "top_p": ([{"p": 0.3003}, {"p": 0.9007}], [{"p": 1.0}]),
    "min_p": ([{"p": 0.07}], [{"p": 0.0}]),
    "typical": ([{"p": 0.6007}], [{"p": 1.0}]),
    "top_n_sigma": ([{"n": 1.0}], [{"n": 100.0}]),
    "epsilon": ([{"value": 0.02}], [{"value": 0.0}]),
    "eta": ([{"value": 0.02}], [{"value": 0.0}]),
    "xtc": (
        [{"probability": 1.0, "threshold": 0.05}],
        [{"probability": 0.0, "threshold": 0.001}, {"probability": 1.0, "threshold": 1.0}],
    ),
}
TEMPERATURES = (0.0, 0.7, 1.0, 2.0)
COUPLINGS: tuple[dict[str, Any], ...] = (
    {"rule": "guidance", "scale": 1.5},
    {"rule": "guidance", "scale": 1.5, "plausibility": 0.05, "scope": {"first": 5}},
    {"rule": "guidance", "scale": 1.0, "final_scale": 1.0, "over": 3},
    {"rule": "context_aware", "alpha": 0.5},
    {"rule": "context_aware", "alpha": 0.0},
)
SCOPES = ({"first": 5}, {"after": 5}, {"after": 1})
SLOTS = (4, 1, 5, 0, 3)


def rules_of(names: list[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Some of these rules, in their order; off half of the time, and at times under a scope."""
    rules: list[dict[str, Any]] = []
    for name in names:
        how = int(rng.integers(5))
        if how == 0:
            continue
        variants = VARIANTS[name][how % 2]
        rule = {"rule": name, **variants[rng.integers(len(variants))]}
        if rng.random() < 0.25:
            rule["scope"] = SCOPES[rng.integers(len(SCOPES))]
        rules.append(rule)
    if rng.random() < 0.8:
        heat = {"rule": "temperature", "value": TEMPERATURES[rng.integers(len(TEMPERATURES))]}
        rules.insert(int(rng.integers(len(rules) + 1)), heat)
    if rng.random() < 0.4:
        rules.insert(0, COUPLINGS[rng.integers(len(COUPLINGS))])
    return rules


def compare_crowds(device: str, num_crowds: int, first: int = 0) -> None:
    """Decode crowds one after the other, in slots that keep nothing of those before."""
    fused = Pipeline(WIDTH, 6, device, backend="triton")
    plain = Pipeline(WIDTH, 6)
    slots = list(SLOTS)
    for seed in range(first, first + num_crowds):
        rng = np.random.default_rng(seed)
        names = rng.permutation(sorted(VARIANTS))[:7].tolist()
        for number, slot in enumerate(slots):
            plan = plan_of(rules_of(names, rng))
            instruction, said = rng.integers(28, 33, 5).tolist(), rng.integers(28, 33, 4).tolist()
            asked = int(rng.integers(-1, 3))
            for pipeline in (fused, plain):
                pipeline.slots.add(
                    slot, plan, history=instruction, seed=seed, choice=number, logprobs=asked
                )
                pipeline.slots.commit([slot], [said])
        ends = np.cumsum([0, *(plain.slots.num_streams(slot) for slot in slots)]).tolist()
        for _ in range(2):
            shape = (ends[-1], WIDTH)
            rows = torch.from_numpy(rng.normal(0, 2, shape)).float()
            ours = fused.draw(rows.to(device, copy=True), slots, None)
            theirs = plain.draw(rows.clone(), slots, None)
            check(ours, theirs)
            # Of the torch path each alone draws the same bits.
            for place, (begin, end) in enumerate(pairwise(ends)):
                selection, _ = plain.draw(rows[begin:end].clone(), [slots[place]], None)
                assert torch.equal(selection.tokens[0], theirs[0].tokens[place])
            tokens = theirs[0].tokens.tolist()
            for pipeline in (fused, plain):
                pipeline.slots.commit(slots, [[one] if one >= 0 else [] for one in tokens])
