"""Healing against the tokenizer itself: what stays and what may follow is as in longer text."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import bosal_models
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.dictation import Dictation
from bosal_decoding.errors import InvalidMaxTokens, RuleConflict
from bosal_decoding.opening import Opener, Opening
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import LegalTokens

TEXT = (
    '## LORENZ\n{"name": "Preinhaven", "region": "Corvia"}\n- a\n- b\n\n'
    "The Amber Garden lies in Zimmar.  It don't cost 3.14; naïve — 中文字, too!\n\n\nThree."
)


@pytest.fixture(scope="module")
def base() -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(bosal_models.path("base") / "tokenizer.json"))
    return Vocabulary.from_tokenizer(tokenizer, eos_ids=[0])


@pytest.fixture(scope="module")
def joined() -> Vocabulary:
    """Tokens that reach from within one character into the next."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=275, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["🙂🙃🎉 🙃🙂🙃", "中文é", "e\u0301"] * 4, trainer)
    return Vocabulary.from_tokenizer(tokenizer, eos_ids=[0])


def legal(vocabulary: Vocabulary, opening: Opening, output: Sequence[int]) -> set[int] | None:
    """What may follow an output by its opening; None is anything."""
    dictation = Dictation(vocabulary.size)
    dictation.add(0, vocabulary, opening)
    found = dictation.within(None, [0], [output])
    if found is None:
        return None
    words = found.bits[0].tolist()
    return {token for token in range(vocabulary.size) if words[token >> 5] >> (token & 31) & 1}


def follow(vocabulary: Vocabulary, opening: Opening, tokens: Sequence[int]) -> None:
    """Write tokens one by one, each of which must be legal."""
    for place, token in enumerate(tokens):
        allowed = legal(vocabulary, opening, tokens[:place])
        assert allowed is None or token in allowed


@pytest.mark.parametrize("end", range(4, len(TEXT), 3))
def test_a_healed_prompt_goes_on_as_the_whole_text_is_cut(base: Vocabulary, end: int) -> None:
    prompt, whole = TEXT[:end], base.encode(TEXT)
    ids = base.encode(prompt)
    found = Opener(heals_prompt=True).open(base, prompt, ids)
    assert found is not None
    kept, opening = found
    assert ids[:kept] == whole[:kept]
    assert opening.token_ids == ()
    assert opening.hidden.encode() == opening.rest == base.bytes_of(ids[kept:])
    follow(base, opening, whole[kept:])


@settings(max_examples=60)
@given(
    first=st.text(st.sampled_from("The capital of é中 \n\n1.,'s"), min_size=2, max_size=24),
    rest=st.text(st.sampled_from("The capital of é中 \n\n1.,'s"), max_size=12),
)
def test_whatever_the_texts(base: Vocabulary, first: str, rest: str) -> None:
    first = f"So: {first}"
    whole = base.encode(first + rest)
    ids = base.encode(first)
    found = Opener(heals_prompt=True).open(base, first, ids)
    assert found is not None
    kept, opening = found
    assert ids[:kept] == whole[:kept]
    follow(base, opening, whole[kept:])


def test_only_tokens_that_go_on_with_the_cut_bytes_are_legal(base: Vocabulary) -> None:
    prompt = "The capital of Fra"
    _, opening = Opener(heals_prompt=True).open(base, prompt, base.encode(prompt)) or (0, None)
    assert opening is not None
    first = legal(base, opening, [])
    assert first
    for token in first:
        spelled = base.token_bytes[token]
        assert spelled.startswith(opening.rest) or opening.rest.startswith(spelled)
    (longest,) = base.ids_spelling(opening.rest)[:1] or (next(iter(first)),)
    assert legal(base, opening, [longest]) is None or opening.rest != base.token_bytes[longest]
    assert not first & base.eos_ids


def test_a_prompt_of_one_token_stays(base: Vocabulary) -> None:
    ids = base.encode("T")
    assert Opener(heals_prompt=True).open(base, "T", ids) == (1, Opening())


@pytest.mark.parametrize("answer", ["", "🙃🙂 so", "\u0301x"])
@pytest.mark.parametrize(
    "prompt", ["🙂", "🙂🙃", "é", "中", "e\u0301", "🙃 a", "\u200d", "\0", "\r\n"]
)
def test_a_character_of_several_tokens_at_the_very_beginning_is_not_cut(
    prompt: str, answer: str, base: Vocabulary, joined: Vocabulary
) -> None:
    """The first token always stays, and what is taken back is text."""
    for one in (base, joined):
        ids = one.encode(prompt)
        opener = Opener(answer=answer, heals_prompt=True, heals_answer=True)
        kept, opening = opener.open(one, prompt, ids) or (0, Opening())
        assert kept >= 1
        written = one.bytes_of([*ids[:kept], *opening.token_ids]) + opening.rest
        assert written.decode() == prompt + answer
        assert (prompt + answer).endswith(opening.hidden + answer)


@pytest.mark.parametrize("heals", [False, True])
@pytest.mark.parametrize("place", range(1, len(TEXT) - 1, 7))
def test_a_prefill_is_cut_together_with_its_prompt(
    base: Vocabulary, place: int, heals: bool
) -> None:
    prompt, answer = TEXT[:place], TEXT[place : place + 9]
    ids = base.encode(prompt)
    found = Opener(answer=answer, heals_answer=heals).open(base, prompt, ids)
    assert found is not None
    kept, opening = found
    spelled = base.bytes_of(opening.token_ids) + opening.rest
    assert spelled == opening.hidden.encode() + answer.encode()
    assert (base.bytes_of(ids[:kept]) + spelled).decode() == prompt + answer
    assert heals or not opening.rest
    both_ids = base.encode(prompt + answer)
    if kept > 0 and list(ids[:kept]) == both_ids[:kept]:
        assert list(opening.token_ids) == both_ids[kept : kept + len(opening.token_ids)]


def test_a_sentence_piece_prompt_heals_too(spaced_vocabulary: Vocabulary) -> None:
    text = "I think that we should go"
    whole = spaced_vocabulary.encode(text)
    for end in range(1, len(text)):
        ids = spaced_vocabulary.encode(text[:end])
        found = Opener(heals_prompt=True).open(spaced_vocabulary, text[:end], ids)
        assert found is not None
        kept, opening = found
        assert ids[:kept] == whole[:kept]
        follow(spaced_vocabulary, opening, whole[kept:])


def test_a_constraints_mask_is_narrowed_unless_it_has_other_tokens(base: Vocabulary) -> None:
    def masks(place: int, *tokens: int) -> LegalTokens:
        bits = torch.zeros((1, base.size // 32 + 1), dtype=torch.int32)
        for token in tokens:
            bits[0, token >> 5] |= 1 << (token & 31)
        return LegalTokens(torch.tensor([place]), bits)

    def left(legal: LegalTokens | None) -> dict[int, set[int]]:
        assert legal is not None
        return {
            place: {token for token in range(base.size) if row[token >> 5] >> (token & 31) & 1}
            for place, row in zip(legal.rows.tolist(), legal.bits.tolist(), strict=True)
        }

    (the,) = base.ids_of(" the")
    some = next(iter(base.ids_beginning(b" t")))
    dictation = Dictation(base.size)
    dictation.add(1, base, Opening(rest=b" t"))
    dictation.add(2, base, Opening(token_ids=(some,)))
    outputs: list[list[int]] = [[], [], []]
    narrowed = left(dictation.within(masks(0, the, 5), [1, 0], outputs))
    assert narrowed == {0: {the}}
    assert left(dictation.within(masks(0, 5), [1], outputs)) == {0: {5}}
    assert left(dictation.within(masks(0, 5), [2], outputs)) == {0: {some}}
    assert left(dictation.within(masks(0, 5), [0, 2], outputs)) == {0: {5}, 1: {some}}
    assert dictation.within(None, [0], outputs) is None


def plan_of(vocabulary: Vocabulary, *rules: dict[str, Any], scaffold: str = "raw") -> Plan:
    recipe = Recipe.parse({"scaffold": {"kind": scaffold}, "rules": list(rules)})
    return compile_recipe(recipe, vocabulary, context_tokens=256)


def ask(text: str) -> list[Message]:
    return [Message(role="user", text=text)]


def test_the_space_before_an_answer_is_added_and_history_loses_what_is_taken_back(
    base: Vocabulary,
) -> None:
    plan = plan_of(base, {"rule": "prefill", "text": "Sure", "heal": False}, scaffold="qa")
    (prompt,) = plan.prompts(ask("Name a lake."))
    assert base.bytes_of(prompt.opening.token_ids) == b" Sure"
    assert prompt.opening.hidden == ""
    (healed,) = plan_of(base, {"rule": "token_healing"}).prompts(ask("Name a la"))
    (whole,) = plan_of(base).prompts(ask("Name a la"))
    count = len(healed.token_ids)
    assert count < len(whole.token_ids)
    assert healed.token_ids == whole.token_ids[:count]
    assert healed.history_ids == whole.history_ids[:count]


def test_a_coupled_prompt_is_cut_alike_or_the_rules_contradict_each_other(
    base: Vocabulary,
) -> None:
    guidance: dict[str, Any] = {"rule": "guidance", "negative": "Write a poe"}
    with pytest.raises(RuleConflict, match="'token_healing' contradicts 'guidance'"):
        plan_of(base, {"rule": "token_healing"}, guidance).prompts(ask("Name a la"))
    # Nothing of the user's ends these prompts.
    rules: tuple[dict[str, Any], ...] = ({"rule": "token_healing"}, guidance)
    mine, theirs = plan_of(base, *rules, scaffold="qa").prompts(ask("Name a la"))
    assert mine.opening == theirs.opening
    assert mine.opening.rest
    own, other = plan_of(base, guidance, scaffold="qa").prompts(ask("Name a la"))
    cut = len(own.token_ids) - len(mine.token_ids)
    assert cut > 0
    assert theirs.token_ids == other.token_ids[: len(other.token_ids) - cut]
    # A prefill does without.
    rules = ({"rule": "prefill", "text": "ke Como"}, guidance)
    mine, theirs = plan_of(base, *rules).prompts(ask("Name a la"))
    assert mine.token_ids == tuple(base.encode("Name a la"))
    assert theirs.token_ids == tuple(base.encode("Write a poe"))
    opening = mine.opening
    assert base.bytes_of(opening.token_ids) + opening.rest == b"ke Como"


def test_what_is_forced_must_fit_the_budget(base: Vocabulary) -> None:
    plan = plan_of(base, {"rule": "prefill", "text": "The Amber Garden is", "heal": False})
    prompts = plan.prompts(ask("Where?"))
    needed = prompts[0].opening.least_tokens
    assert plan.output_budget(prompts, needed) == needed
    with pytest.raises(RuleConflict, match="'prefill' contradicts 'max_tokens'"):
        plan.output_budget(prompts, needed - 1)
    phrases = [{"text": " Amber", "at": 4}, {"text": " Garden", "at": "end"}]
    plan = plan_of(base, {"rule": "forced_phrases", "phrases": phrases})
    prompts = plan.prompts(ask("Where?"))
    needed = 4 + sum(len(phrase.token_ids) for phrase in plan.phrases)
    assert plan.output_budget(prompts, needed) == needed
    with pytest.raises((RuleConflict, InvalidMaxTokens), match="forced_phrases"):
        plan.output_budget(prompts, needed - 1)
