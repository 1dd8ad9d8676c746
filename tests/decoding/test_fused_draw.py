"""Which recipes the kernels serve, and a whole pipeline over them in Triton's interpreter."""

from typing import Any

import pytest
import torch
from tests.decoding.fused_crowds import compare_crowds
from tests.decoding.fused_pipeline import compare
from tests.kernels.test_bitmask_apply import run

from bosal_decoding.compile import compile
from bosal_decoding.fused_draw import backend_of
from bosal_decoding.fused_slots import FUSED_RULES
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules.catalogue import RULES
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import CombineParams, SlotParams, Space, Stage
from bosal_kernels.fusible import is_fusible

# An example of every rule that the kernels execute over one model.
FUSED: dict[str, dict[str, Any]] = {
    "banned_strings": {"values": ["I"]},
    "context_aware": {"alpha": 0.5},
    "dry": {"multiplier": 0.8},
    "eos_ramp": {"weight": 5, "over": 9},
    "epsilon": {"value": 0.01},
    "eta": {"value": 0.01},
    "exponential_decay_length": {"start": 2, "factor": 1.1},
    "frequency_penalty": {"value": 0.5},
    "guidance": {"scale": 1.5},
    "logit_bias": {"ids": {"7": 1.5}},
    "min_p": {"p": 0.05},
    "min_tokens": {"value": 3},
    "no_repeat_ngram": {"n": 3},
    "presence_penalty": {"value": 0.5},
    "repetition_penalty": {"value": 1.2},
    "temperature": {"value": 0.7},
    "token_weights": {"weights": {"I": -2}},
    "top_k": {"k": 20},
    "top_n_sigma": {"n": 1},
    "top_p": {"p": 0.9},
    "used_token_weight": {"weight": -1.5},
    "xtc": {"probability": 0.5},
}
UNFUSED: dict[str, dict[str, Any]] = {
    "typical": {"p": 0.9},
    "mirostat": {"tau": 3},
    "dynamic_temperature": {"low": 0.5, "high": 1.5},
    "allowed_tokens": {"ids": [5, 6]},
}


def fuses(vocabulary: Vocabulary, rules: list[dict[str, Any]]) -> bool:
    plan = compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=2048)
    return is_fusible(plan.slot_params(seed=1, choice=0, logprobs=-1), plan.coupling)


def test_the_kernels_serve_the_rules_that_are_listed(vocabulary: Vocabulary) -> None:
    # Those of several models are left: the next test has their combinations.
    assert set(FUSED_RULES) == FUSED.keys() | {"contrastive", "proxy_tuning", "realign"}
    assert set(FUSED_RULES) <= RULES.keys()
    for name, params in FUSED.items():
        assert fuses(vocabulary, [{"rule": name, **params}]), name
    for name, params in UNFUSED.items():
        assert not fuses(vocabulary, [{"rule": name, **params}]), name
    windowed = {"rule": "presence_penalty", "value": 0.5, "window": 8}
    assert not fuses(vocabulary, [windowed])
    assert fuses(vocabulary, [{"rule": "top_p", "p": 0.9, "scope": {"after": 3}}])
    gated = {"rule": "top_p", "p": 0.9, "when": {"top1_below": 0.5}}
    assert not fuses(vocabulary, [gated])


def test_the_kernels_serve_sums_over_up_to_three_streams() -> None:
    def coupled(count: int, **params: Any) -> CombineParams:
        space = params.pop("space", Space.LOGITS)
        ones = (1.0,) * count
        return CombineParams(space=space, weights=ones, slopes=ones, strength=1.0, **params)

    plain = SlotParams(key=1)
    assert is_fusible(plain, coupled(3))
    assert is_fusible(plain, coupled(2, plausibility=0.1))
    assert not is_fusible(plain, coupled(4))
    assert is_fusible(plain, coupled(3, space=Space.LOGPROBS))
    assert not is_fusible(plain, coupled(2, space=Space.PROBABILITIES))
    assert not is_fusible(plain, coupled(2, nucleus=0.9))
    assert not is_fusible(plain, coupled(2, by_confidence=True))
    sigma = SlotParams(key=1, chain=((Stage.TOP_N_SIGMA, 1.0, 0.0),))
    assert not is_fusible(sigma, coupled(2, plausibility=0.1))


def test_a_cpu_draws_by_the_torch_path() -> None:
    assert backend_of("cpu") == "torch"


@pytest.mark.long
def test_a_pipeline_over_the_kernels_draws_as_over_the_torch_path() -> None:
    pytest.importorskip("triton")
    run("../decoding/interpreted_pipeline.py", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_pipeline_on_a_device_draws_as_on_a_cpu() -> None:
    compare("cuda")
    compare_crowds("cuda", 3)
