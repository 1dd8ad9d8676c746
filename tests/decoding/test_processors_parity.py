"""Shaping, masking and stopping rules against the classes of transformers, on random logits."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StopStringCriteria,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.stopping import StopMatch
from bosal_decoding.vocabulary import Vocabulary

INSTRUCTION = [20, 21, 22, 21]

Rules = list[dict[str, Any]]


def ours(vocabulary: Vocabulary, rules: Rules, logits: Tensor, output: list[int]) -> Tensor:
    """A row [1, V] after shape and mask."""
    plan = compile_recipe(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=INSTRUCTION, seed=0, choice=0)
    pipeline.slots.commit([0], [output])
    return pipeline.apply(logits.clone(), [0]).logits


def theirs(processor: Any, logits: Tensor, output: list[int]) -> Tensor:
    scores: Tensor = processor(torch.tensor([INSTRUCTION + output]), logits.clone())
    return scores


def random_logits(vocabulary: Vocabulary, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, vocabulary.size, generator=generator) * scale


OUTPUTS = st.lists(st.integers(20, 40), max_size=12)
SEEDS = st.integers(0, 2**16)


@settings(max_examples=60)
@given(output=OUTPUTS, seed=SEEDS, value=st.sampled_from([0.8, 1.0, 1.1, 1.3, 2.0]))
def test_repetition_penalty(
    vocabulary: Vocabulary, output: list[int], seed: int, value: float
) -> None:
    logits = random_logits(vocabulary, seed)
    found = ours(vocabulary, [{"rule": "repetition_penalty", "value": value}], logits, output)
    processor = RepetitionPenaltyLogitsProcessor(value)
    torch.testing.assert_close(found, theirs(processor, logits, output))


@settings(max_examples=30)
@given(output=OUTPUTS, seed=SEEDS)
def test_repetition_penalty_without_the_prompt(
    vocabulary: Vocabulary, output: list[int], seed: int
) -> None:
    """`prompt_ignore_length` there, `include_instruction: false` here."""
    logits = random_logits(vocabulary, seed)
    rule = {"rule": "repetition_penalty", "value": 1.2, "include_instruction": False}
    processor = RepetitionPenaltyLogitsProcessor(1.2, prompt_ignore_length=len(INSTRUCTION))
    expected = theirs(processor, logits, output) if output else logits
    torch.testing.assert_close(ours(vocabulary, [rule], logits, output), expected)


@settings(max_examples=30)
@given(output=OUTPUTS, seed=SEEDS, least=st.integers(1, 12))
def test_min_tokens(vocabulary: Vocabulary, output: list[int], seed: int, least: int) -> None:
    logits = random_logits(vocabulary, seed)
    eos = sorted(vocabulary.eos_ids)
    processor = MinNewTokensLengthLogitsProcessor(len(INSTRUCTION), least, eos)
    found = ours(vocabulary, [{"rule": "min_tokens", "value": least}], logits, output)
    assert torch.equal(found, theirs(processor, logits, output))


@settings(max_examples=30)
@given(
    output=OUTPUTS,
    seed=SEEDS,
    bias=st.dictionaries(st.integers(5, 60), st.floats(-50, 50, width=32), min_size=1, max_size=8),
)
def test_logit_bias(
    vocabulary: Vocabulary, output: list[int], seed: int, bias: dict[int, float]
) -> None:
    """`sequence_bias` of single tokens."""
    logits = random_logits(vocabulary, seed)
    # transformers refuses a bias of 0.
    bias = {token: value for token, value in bias.items() if value} or {5: 1.0}
    processor = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    found = ours(vocabulary, [{"rule": "logit_bias", "ids": bias}], logits, output)
    torch.testing.assert_close(found, theirs(processor, logits, output))


@settings(max_examples=20)
@given(output=OUTPUTS, seed=SEEDS, ids=st.sets(st.integers(5, 60), min_size=1, max_size=9))
def test_allowed_tokens(
    vocabulary: Vocabulary, output: list[int], seed: int, ids: set[int]
) -> None:
    """`prefix_allowed_tokens_fn` of a constant set."""
    logits = random_logits(vocabulary, seed)
    processor = PrefixConstrainedLogitsProcessor(lambda row, prefix: sorted(ids), 1)
    rule = {"rule": "allowed_tokens", "ids": sorted(ids), "allow_end": False}
    found = ours(vocabulary, [rule], logits, output)
    assert torch.equal(found, theirs(processor, logits, output))


@settings(max_examples=20)
@given(output=OUTPUTS, seed=SEEDS, ids=st.sets(st.integers(5, 60), min_size=1, max_size=9))
def test_suppressed_tokens_at_all_steps_and_at_the_first(
    vocabulary: Vocabulary, output: list[int], seed: int, ids: set[int]
) -> None:
    """`suppress_tokens` and `begin_suppress_tokens` are the other tokens allowed."""
    logits = random_logits(vocabulary, seed)
    kept = [token for token in range(vocabulary.size) if token not in ids]
    rule: dict[str, Any] = {"rule": "allowed_tokens", "ids": kept}
    always = theirs(SuppressTokensLogitsProcessor(sorted(ids)), logits, output)
    assert torch.equal(ours(vocabulary, [rule], logits, output), always)
    first = SuppressTokensAtBeginLogitsProcessor(sorted(ids), len(INSTRUCTION))
    found = ours(vocabulary, [rule | {"scope": {"first": 1}}], logits, output)
    assert torch.equal(found, theirs(first, logits, output))


@settings(max_examples=20)
@given(output=st.lists(st.integers(20, 24), max_size=8), seed=SEEDS, data=st.data())
def test_a_ban_of_the_last_token_of_a_spelling(
    vocabulary: Vocabulary, output: list[int], seed: int, data: st.DataObject
) -> None:
    """`bad_words_ids` masks a last token; a ban here does that at the position it was run into."""
    token = data.draw(st.integers(30, 60))
    word = output[-1:] + [token]
    logits = random_logits(vocabulary, seed)
    processor = NoBadWordsLogitsProcessor([word], sorted(vocabulary.eos_ids))
    plan = compile_recipe(
        Recipe.parse({"rules": [{"rule": "banned_strings", "values": ["?"]}]}),
        vocabulary,
        context_tokens=512,
    )
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=INSTRUCTION, seed=0, choice=0)
    pipeline.slots.commit([0], [output])
    pipeline.slots.ban(0, len(output), token)
    found = pipeline.apply(logits.clone(), [0]).logits
    expected: Tensor = processor(torch.tensor([[7, *output]]), logits.clone())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [0.3, 0.7, 1.0, 1.6])
def test_temperature(vocabulary: Vocabulary, value: float) -> None:
    """By the controlled log-probabilities, where the tempered row is seen."""
    logits = random_logits(vocabulary, 3)
    rules: Rules = [{"rule": "temperature", "value": value}]
    plan = compile_recipe(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[], seed=0, choice=0, logprobs=20)
    selection = pipeline.sample(pipeline.apply(logits.clone(), [0]))
    assert selection.logprobs is not None
    expected = theirs(TemperatureLogitsWarper(value), logits, []).log_softmax(1).topk(20)
    assert selection.logprobs.top_controlled.ids.tolist() == expected.indices.tolist()
    torch.testing.assert_close(selection.logprobs.top_controlled.logprobs, expected.values)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_top_p_never_draws_what_transformers_removes(vocabulary: Vocabulary, p: float) -> None:
    """And draws all that it keeps, given enough draws."""
    logits = random_logits(vocabulary, 5)
    kept = theirs(TopPLogitsWarper(p), logits, []).isfinite()[0].nonzero().squeeze(1).tolist()
    rules: Rules = [{"rule": "top_p", "p": p}]
    plan = compile_recipe(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    slots = list(range(64))
    pipeline = Pipeline(vocabulary.size, len(slots))
    for slot in slots:
        pipeline.slots.add(slot, plan, history=[], seed=slot, choice=0)
    rows = logits.expand(len(slots), -1).clone()
    drawn = set(pipeline.sample(pipeline.apply(rows, slots)).tokens.tolist())
    assert drawn <= set(kept)
    if p == 0.1:
        assert drawn == set(kept)


@settings(max_examples=12)
@given(
    output=st.lists(st.integers(5, 370), min_size=1, max_size=12),
    stops=st.lists(st.sampled_from(["e", "th", " s", "a r", "\n", "we"]), min_size=1, max_size=3),
)
def test_stop_strings(
    vocabulary: Vocabulary, byte_level: Tokenizer, output: list[int], stops: list[str]
) -> None:
    """The same token ends the answer."""
    wrap: Any = PreTrainedTokenizerFast
    tokenizer = wrap(tokenizer_object=byte_level, eos_token="<|endoftext|>")
    criteria = StopStringCriteria(tokenizer, stops)
    rules: Rules = [{"rule": "stop_strings", "values": sorted(set(stops))}]
    plan = compile_recipe(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    stop = plan.text_stop()
    for length, token in enumerate(output, start=1):
        match = stop.feed(vocabulary.token_bytes[token], token)
        expected = bool(criteria(torch.tensor([output[:length]]), torch.zeros(1, 1))[0])
        assert isinstance(match, StopMatch) == expected
        if expected:
            return
