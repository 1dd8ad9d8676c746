"""Prompts of a plan: history, what is pinned, what does not fit."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding.plans import plan_of, user
from tokenizers import Tokenizer, decoders, models

from bosal_decoding.compile import compile
from bosal_decoding.errors import (
    DecodingError,
    InvalidConversation,
    InvalidMaxTokens,
    PromptTooLong,
    RuleConflict,
)
from bosal_decoding.prompt import tokens_within
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_decoding.scaffolds import Message
from bosal_decoding.vocabulary import Vocabulary

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30)


@given(text=TEXT.filter(str.strip), name=st.sampled_from(["in-context", "rules", "plain"]))
def test_history_is_the_instruction_and_never_the_scaffold(
    vocabulary: Vocabulary, text: str, name: str
) -> None:
    plan = compile(load_shipped()[name], vocabulary, context_tokens=4096)
    (prompt,) = plan.prompts([user(text)])
    history = vocabulary.bytes_of(prompt.history_ids)
    written = plan.recipe.scaffold.render([user(text)])[0]
    ((start, end),) = written.spans
    instruction = written.text[start:end].encode()
    assert instruction in history
    # A token may reach over the edge of the instruction, by less than a token.
    longest = max(len(spelled) for spelled in vocabulary.token_bytes)
    assert len(history) < len(instruction) + 2 * longest


def test_history_of_a_conversation_is_what_the_user_said(vocabulary: Vocabulary) -> None:
    plan = compile(load_shipped()["rules"], vocabulary, context_tokens=4096)
    messages = [user("aaa"), Message(role="assistant", text="bbb"), user("ccc")]
    (prompt,) = plan.prompts(messages)
    assert vocabulary.bytes_of(prompt.history_ids) == b"aaaccc"


@given(text=TEXT.filter(str.strip), name=st.sampled_from(["in-context", "rules", "steered"]))
def test_pinned_tokens_lead_every_prompt(any_vocabulary: Vocabulary, text: str, name: str) -> None:
    plan = compile(load_shipped()[name], any_vocabulary, context_tokens=8192)
    (prompt,) = plan.prompts([user(text)])
    pinned = plan.pinned_ids
    assert prompt.token_ids[: prompt.pin_tokens] == pinned[: prompt.pin_tokens]
    assert prompt.pin_tokens == len(pinned)
    (rendered,) = plan.recipe.scaffold.render([user(text)])
    stable = rendered.text[: rendered.stable_chars].encode()
    spelled = any_vocabulary.bytes_of(pinned).lstrip()
    assert stable.startswith(spelled)
    assert len(stable) - len(spelled) < 32


class CountingVocabulary(Vocabulary):
    """A vocabulary that counts the characters it tokenises."""

    num_chars = 0

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        self.num_chars += len(text)
        return super().encode_with_offsets(text)


@pytest.mark.parametrize("context_tokens", [64, 100_000])
def test_a_long_scaffold_is_tokenised_once(byte_level: Tokenizer, context_tokens: int) -> None:
    vocabulary = CountingVocabulary.from_tokenizer(byte_level)
    example = {"instruction": "word " * 1600, "answer": "word " * 1600}
    recipe = Recipe.parse({"scaffold": {"kind": "in_context", "examples": [example] * 4}})
    size = sum(map(len, example.values())) * 4
    if context_tokens < size:
        with pytest.raises(PromptTooLong):
            compile(recipe, vocabulary, context_tokens=context_tokens)
    else:
        assert len(compile(recipe, vocabulary, context_tokens=context_tokens).pinned_ids) > size / 9
    assert size < vocabulary.num_chars < size + 10_000


class LengthOnly(list[tuple[int, int]]):
    """Offsets nobody may look at."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        raise AssertionError("looked at")


def test_a_prompt_too_long_is_refused_before_its_tokens_are_looked_at(
    byte_level: Tokenizer,
) -> None:
    class Guarded(Vocabulary):
        def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            ids, offsets = super().encode_with_offsets(text)
            return ids, LengthOnly(offsets) if len(ids) > 4096 else offsets

    plan = plan_of(Guarded.from_tokenizer(byte_level), scaffold={"kind": "raw"})
    with pytest.raises(PromptTooLong, match="9000 prompt tokens"):
        plan.prompts([user("!?" * 4500)])


@given(
    cuts=st.lists(st.integers(0, 60), max_size=24, unique=True).map(sorted),
    sizes=st.lists(st.integers(0, 5), max_size=40),
)
def test_tokens_within_spans_are_those_that_share_a_character(
    cuts: list[int], sizes: list[int]
) -> None:
    spans = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    ends = list(itertools.accumulate(sizes))
    offsets = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    expected = [
        token
        for token, (start, end) in enumerate(offsets)
        if any(place in range(*span) for span in spans for place in range(start, end))
    ]
    assert list(tokens_within(spans, range(len(offsets)), offsets)) == expected


def test_scaffolds_without_a_prefix_pin_nothing(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, scaffold={"kind": "plain"})
    assert plan.pinned_ids == ()
    assert plan.prompts([user("Hello there")])[0].pin_tokens == 0
    assert plan.scaffold_tokens == 1


def test_bos_leads_the_prompt_once(byte_level_with_bos: Tokenizer) -> None:
    vocabulary = Vocabulary.from_tokenizer(byte_level_with_bos)
    plan = plan_of(vocabulary, scaffold={"kind": "turns"})
    (prompt,) = plan.prompts([user("say <|begin|>")])
    assert prompt.token_ids.count(1) == 1
    assert prompt.token_ids[0] == 1
    assert 1 not in prompt.history_ids
    assert b"<|begin|>" in vocabulary.bytes_of(prompt.history_ids)


def test_overflow_is_an_error_with_the_numbers(vocabulary: Vocabulary) -> None:
    recipe = Recipe.parse({"scaffold": {"kind": "raw"}})
    plan = compile(recipe, vocabulary, context_tokens=10)
    text = "!" * 10
    size = len(vocabulary.encode(text))
    with pytest.raises(PromptTooLong) as caught:
        plan.prompts([user(text)])
    assert caught.value.metadata == {
        "stream": "0",
        "prompt_tokens": str(size),
        "max_tokens": "1",
        "context_tokens": "10",
    }
    with pytest.raises(PromptTooLong):
        compile(load_shipped()["steered"], vocabulary, context_tokens=50)


def test_a_prompt_without_tokens_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    plan = plan_of(Vocabulary.from_tokenizer(tokenizer), scaffold={"kind": "raw"})
    assert plan.prompts([user("za")])[0].token_ids == (0,)
    with pytest.raises(InvalidConversation, match="no token"):
        plan.prompts([user("zzz")])


def test_the_budget_is_the_requests_or_the_recipes_or_the_default(vocabulary: Vocabulary) -> None:
    def budget(context: int, requested: int | None, *rules: dict[str, Any]) -> int:
        recipe = Recipe.parse({"scaffold": {"kind": "raw"}, "rules": list(rules)})
        plan = compile(recipe, vocabulary, context_tokens=context)
        return plan.output_budget(plan.prompts([user("!")]), requested)

    limit = {"rule": "max_tokens", "value": 40}
    assert budget(4096, None) == 256
    assert budget(4096, None, limit) == 40
    assert budget(4096, 50, limit) == 50
    assert budget(21, None) == 20
    assert budget(21, None, limit) == 20
    assert budget(21, 20) == 20
    with pytest.raises(PromptTooLong):
        budget(21, 21)
    with pytest.raises(InvalidMaxTokens, match="max_tokens"):
        budget(21, 0)
    with pytest.raises(RuleConflict):
        budget(4096, 3, {"rule": "min_tokens", "value": 4})
    with pytest.raises(DecodingError):
        budget(21, None, {"rule": "min_tokens", "value": 21})
