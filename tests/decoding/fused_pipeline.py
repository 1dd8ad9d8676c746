"""A pipeline over the kernels beside one over the torch path.

With rules that the kernels do not execute too, rows where rules yield, and NaN.
"""

from typing import Any

import torch
from tests.decoding.conftest import byte_level_tokenizer

from bosal_decoding.compile import compile
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import Logprobs, Selection, TopTokens

VOCABULARY = Vocabulary.from_tokenizer(byte_level_tokenizer(), eos_ids=[0])
# Rows of a head: wider than the vocabulary, and aligned as those of the engine's tests, so that the
# same kernels serve both on a device.
WIDTH = 384
WARM = {"rule": "temperature", "value": 0.8}
RECIPES: tuple[list[dict[str, Any]], ...] = (
    [
        {"rule": "eos_ramp", "weight": 15, "over": 20},
        {"rule": "token_weights", "weights": {"I": -5}, "if_missing": "skip"},
        {"rule": "used_token_weight", "weight": -1.5},
        {"rule": "repetition_penalty", "value": 1.3},
        WARM,
        {"rule": "top_k", "k": 20},
        {"rule": "top_p", "p": 0.9},
    ],
    [
        {"rule": "presence_penalty", "value": 0.5},
        {"rule": "frequency_penalty", "value": 0.5},
        {"rule": "temperature", "value": 0},
    ],
    [{"rule": "no_repeat_ngram", "n": 2}, WARM, {"rule": "typical", "p": 0.8}],
    [{"rule": "no_repeat_ngram", "n": 2}, {"rule": "dry", "multiplier": 3.0}, WARM],
    [{"rule": "context_aware", "alpha": 0.5}, {"rule": "min_p", "p": 0.05}],
    [{"rule": "guidance", "scale": 1.5}, {"rule": "repetition_penalty", "value": 1.2}, WARM],
    # Where only the end of the text is left, it yields: the torch path's business.
    [{"rule": "min_tokens", "value": 4}, WARM],
    [{"rule": "logit_bias", "ids": {"7": 1.5}}],
)


def plan_of(rules: list[dict[str, Any]]) -> Plan:
    scaffold = {"kind": "plain"}
    recipe = Recipe.parse({"scaffold": scaffold, "rules": rules})
    return compile(recipe, VOCABULARY, context_tokens=4096)


def on_host(selection: Selection) -> Selection:
    given = selection.logprobs
    if given is not None:
        top_raw, top = given.top_raw, given.top_controlled
        given = Logprobs(
            rows=given.rows.cpu(),
            raw_logprob=given.raw_logprob.cpu(),
            controlled_logprob=given.controlled_logprob.cpu(),
            raw_rank=given.raw_rank.cpu(),
            controlled_rank=given.controlled_rank.cpu(),
            top_raw=TopTokens(top_raw.ids.cpu(), top_raw.logprobs.cpu()),
            top_controlled=TopTokens(top.ids.cpu(), top.logprobs.cpu()),
        )
    return Selection(
        tokens=selection.tokens.cpu(),
        yielded=selection.yielded.cpu(),
        invalid=selection.invalid.cpu(),
        logprobs=given,
    )


def check(ours: tuple[Selection, torch.Tensor], theirs: tuple[Selection, torch.Tensor]) -> None:
    found, wanted = on_host(ours[0]), theirs[0]
    assert torch.equal(found.tokens, wanted.tokens), (found.tokens, wanted.tokens)
    assert torch.equal(found.yielded, wanted.yielded)
    assert torch.equal(found.invalid, wanted.invalid)
    assert torch.equal(ours[1].cpu(), theirs[1])
    assert (found.logprobs is None) == (wanted.logprobs is None)
    if found.logprobs is None or wanted.logprobs is None:
        return
    for name in ("rows", "raw_rank", "controlled_rank"):
        assert torch.equal(getattr(found.logprobs, name), getattr(wanted.logprobs, name))
    for name in ("raw_logprob", "controlled_logprob"):
        torch.testing.assert_close(
            getattr(found.logprobs, name),
            getattr(wanted.logprobs, name),
            rtol=2e-6,
            atol=4e-6,
            equal_nan=True,
        )
    for name in ("top_raw", "top_controlled"):
        assert torch.equal(getattr(found.logprobs, name).ids, getattr(wanted.logprobs, name).ids)


def compare(device: str) -> None:
    """Decode the same rows over both, and assert that they draw and report the same."""
    fused = Pipeline(WIDTH, 9, device, backend="triton")
    plain = Pipeline(WIDTH, 9)
    assert (fused.backend, plain.backend) == ("triton", "torch")
    fused.warm_up(num_tokens=VOCABULARY.size)
    slots = [6, 2, 0, 7, 5, 8, 1, 4]
    for pipeline in (fused, plain):
        for number, (slot, rules) in enumerate(zip(slots, RECIPES, strict=True)):
            pipeline.slots.add(
                slot,
                plan_of(rules),
                history=[5, 9, 9],
                seed=number,
                choice=number % 2,
                logprobs=(2, -1, 1, -1, -1, -1, 0, -1)[number],
            )
            pipeline.slots.commit([slot], [[30, 31, 30, 31 + number]])
    counts = [fused.slots.num_streams(slot) for slot in slots]
    generator = torch.Generator().manual_seed(3)
    for step in range(3):
        rows = 3 * torch.randn(sum(counts), WIDTH, generator=generator)
        if step == 1:
            rows[1, 100] = torch.nan
        if step == 2:
            end = sum(counts[:6])
            rows[end] = torch.where(torch.arange(WIDTH) == 0, 1.0, -torch.inf)
            fused.slots.rollback(1, 4)
            plain.slots.rollback(1, 4)
        # No server forces tokens by the kernels: on a device that alone would compile for a minute.
        forced = [-1] * 7 + [77] if step == 0 and device == "cpu" else None
        ours = fused.draw(rows.to(device, copy=True), slots, forced)
        theirs = plain.draw(rows.clone(), slots, forced)
        check(ours, theirs)
        if step == 2:
            assert bool((ours[0].yielded > 0).any())
        tokens = ours[0].tokens.tolist()
        for pipeline in (fused, plain):
            pipeline.slots.commit(slots, [[token] if token >= 0 else [] for token in tokens])
    for pipeline in (fused, plain):
        for slot in slots:
            pipeline.slots.free(slot)
