"""Constraints in a running batch, under a model that guesses: masks, ends, budgets, ways back."""

import json
import random
from typing import Any

import pytest
import torch
from tests.decoding.constraints.conftest import Compile

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.vocabulary import Vocabulary
from bosal_decoding.yielding import yielded_rules

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "scores": {"type": "array", "items": {"type": "number"}},
        "more": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"key": {"type": "string"}, "on": {"type": "boolean"}},
                "required": ["key", "on"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "scores", "more"],
    "additionalProperties": False,
}


class Guess:
    """One choice whose model draws from flat noise."""

    def __init__(
        self,
        compiler: ConstraintCompiler,
        vocabulary: Vocabulary,
        *rules: dict[str, Any],
        max_tokens: int,
        seed: int,
        head: int | None = None,
        logprobs: int = -1,
        **fields: Any,
    ) -> None:
        self.vocabulary = vocabulary
        document = {"scaffold": {"kind": "raw"}, "rules": list(rules), "constraint": fields}
        plan = compile_recipe(Recipe.parse(document), vocabulary, context_tokens=4096)
        program = compiler.compile(Constraint.read(fields, ""), vocabulary)
        self.size = head or vocabulary.size + 5
        self.pipeline = Pipeline(self.size, 2)
        self.pipeline.slots.add(
            1,
            plan,
            history=[],
            seed=seed,
            choice=0,
            logprobs=logprobs,
            program=program,
            max_tokens=max_tokens,
        )
        self.max_tokens = max_tokens
        self.generator = torch.Generator().manual_seed(seed)
        self.yielded: set[str] = set()

    def run(self) -> tuple[str, bytes]:
        """Decode to the end; return why it ended, and the text."""
        for _ in range(6 * self.max_tokens):
            self.pipeline.slots.start_masks([1])
            logits = torch.randn(1, self.size, generator=self.generator) * 3
            selection = self.pipeline.sample(self.pipeline.apply(logits, [1]))
            self.yielded |= set(yielded_rules(int(selection.yielded[0])))
            token = int(selection.tokens[0])
            if token < 0:
                return self.pipeline.slots.blocked(1).name, self.text
            self.pipeline.slots.commit([1], [[token]])
            is_end = token in self.vocabulary.eos_ids
            verdict = self.pipeline.slots.settle(1)
            if verdict is Verdict.RETRACT:
                if self.pipeline.slots.retract(1):
                    return "CLOSED", self.text
            elif verdict is not Verdict.GO_ON:
                return verdict.name, self.text
            elif is_end:
                return "END", self.text
            elif len(self.pipeline.slots.output(1)) >= self.max_tokens:
                return "LENGTH", self.text
        raise AssertionError("it never ends")

    @property
    def text(self) -> bytes:
        return self.vocabulary.bytes_of(self.pipeline.slots.output(1))


@pytest.mark.parametrize("spare", [0, 1, 7, 40, 150])
def test_json_is_complete_within_any_budget(
    compiler: ConstraintCompiler, words: Vocabulary, spare: int
) -> None:
    constraint = Constraint.read({"json_schema": SCHEMA, "whitespace": "compact"}, "")
    close = compiler.compile(constraint, words).close
    assert close is not None
    max_tokens = len(close) + spare
    reasons = set()
    for seed in range(5):
        guess = Guess(
            compiler, words, max_tokens=max_tokens, seed=seed, json_schema=SCHEMA,
            whitespace="compact",
        )  # fmt: skip
        reason, text = guess.run()
        reasons.add(reason)
        assert reason in ("COMPLETE", "CLOSED", "END"), (reason, text)
        assert len(guess.pipeline.slots.output(1)) <= max_tokens
        value = json.loads(text)
        assert set(value) == {"name", "scores", "more"}
    assert "CLOSED" in reasons


def test_the_end_competes_where_the_text_is_complete(
    compiler: ConstraintCompiler, words: Vocabulary
) -> None:
    reasons = [
        Guess(compiler, words, max_tokens=60, seed=seed, regex="[a-c]{1,40}").run()
        for seed in range(20)
    ]
    assert {reason for reason, _ in reasons} <= {"END", "COMPLETE", "CLOSED"}
    assert "END" in {reason for reason, _ in reasons}
    assert len({len(text) for _, text in reasons}) > 3


def test_a_choice_is_one_of_the_choices_even_in_one_token(
    compiler: ConstraintCompiler, words: Vocabulary
) -> None:
    choices = ["the", "then we go home and so on", "I"]
    for max_tokens in (1, 2, 5, 30):
        for seed in range(10):
            guess = Guess(compiler, words, max_tokens=max_tokens, seed=seed, choice=choices)
            _, text = guess.run()
            assert text.decode() in choices, max_tokens


def test_min_tokens_bans_and_ngrams_yield_to_the_constraint_and_are_named(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary
) -> None:
    words = byte_level_vocabulary
    # By default the rule stands down inside a constraint, and has nothing to yield.
    repeats = {"rule": "no_repeat_ngram", "n": 2, "scope": "everywhere"}
    rules = ({"rule": "min_tokens", "value": 8}, repeats)
    guess = Guess(compiler, words, *rules, max_tokens=20, seed=1, regex="(zq){3}b?")
    reason, text = guess.run()
    assert reason in ("END", "COMPLETE")
    assert text in (b"zqzqzq", b"zqzqzqb")
    assert "no_repeat_ngram" in guess.yielded
    guess = Guess(compiler, words, rules[0], max_tokens=20, seed=1, regex="zqb?")
    # Where the end is early the other legal token is taken, so nothing yields.
    assert guess.run() == ("COMPLETE", b"zqb")
    assert guess.yielded == set()


def test_rollback_and_retract_leave_no_trace(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary
) -> None:
    words = byte_level_vocabulary
    guess = Guess(compiler, words, max_tokens=50, seed=3, json_schema=SCHEMA)
    rng = random.Random(4)
    masks: list[torch.Tensor] = []
    for _ in range(60):
        guess.pipeline.slots.start_masks([1])
        controlled = guess.pipeline.apply(torch.zeros(1, guess.size), [1])
        here = controlled.logits.isfinite()
        length = len(guess.pipeline.slots.output(1))
        if length < len(masks):
            assert torch.equal(masks[length], here)
        else:
            masks.append(here)
        if length and rng.random() < 0.4:
            guess.pipeline.slots.rollback(1, rng.randint(1, min(length, 4)))
            continue
        token = rng.choice(here[0].nonzero().squeeze(1).tolist())
        if token in words.eos_ids:
            break
        del masks[length + 1 :]
        guess.pipeline.slots.commit([1], [[token]])


def test_a_head_as_wide_as_the_vocabulary_has_room_for_the_mask(
    compiler: ConstraintCompiler, words: Vocabulary
) -> None:
    guess = Guess(compiler, words, max_tokens=9, seed=0, head=words.size, regex="(I think)+")
    assert guess.run()[1].startswith(b"I think")


def test_a_free_slot_holds_nothing_of_the_choice_before(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary
) -> None:
    guess = Guess(compiler, byte_level_vocabulary, max_tokens=9, seed=0, regex="zq")
    guess.pipeline.slots.start_masks([1])
    guess.pipeline.slots.free(1)
    plan = compile_recipe(Recipe.parse({}), byte_level_vocabulary, context_tokens=64)
    guess.pipeline.slots.add(1, plan, history=[], seed=0, choice=0)
    controlled = guess.pipeline.apply(torch.zeros(1, guess.size), [1])
    assert int(controlled.logits.isfinite().sum()) == byte_level_vocabulary.size


def test_a_plan_with_a_constraint_needs_its_program(
    compiled: Compile, byte_level_vocabulary: Vocabulary
) -> None:
    recipe = Recipe.parse({"constraint": {"regex": "a"}})
    plan = compile_recipe(recipe, byte_level_vocabulary, context_tokens=64)
    pipeline = Pipeline(byte_level_vocabulary.size, 1)
    with pytest.raises(ValueError, match="program"):
        pipeline.slots.add(0, plan, history=[], seed=0, choice=0)


@pytest.mark.parametrize("rules_in_strings", [False, True])
def test_rules_stand_down_in_structure_and_act_in_strings_if_told_to(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary, rules_in_strings: bool
) -> None:
    words = byte_level_vocabulary
    rule = {"rule": "used_token_weight", "weight": -5}
    guess = Guess(
        compiler, words, rule, max_tokens=60, seed=1,
        json_schema={"type": "array", "items": {"type": "string"}, "minItems": 2},
        rules_in_strings=rules_in_strings,
    )  # fmt: skip
    weighed = []
    text = '["aa","a'
    for place, char in enumerate(text.encode()):
        logits = guess.pipeline.apply(torch.zeros(1, guess.size), [1]).logits[0]
        used = {words.token_bytes.index(bytes([byte])) for byte in text.encode()[:place]}
        legal = [token for token in used if logits[token] > -torch.inf]
        weighed.append(any(logits[token] == -5 for token in legal))
        guess.pipeline.slots.commit([1], [[words.token_bytes.index(bytes([char]))]])
    # Only within the two strings, and only if told to.
    inside = [place in (2, 3, 4, 7) for place in range(len(text))]
    assert weighed[3:5] == [rules_in_strings] * 2
    assert not any(value for value, is_text in zip(weighed, inside, strict=True) if not is_text)


@pytest.mark.parametrize("region", ["inside_constraint", "outside_constraint"])
def test_streams_are_combined_in_strings_or_in_structure_from_their_first_token_on(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary, region: str
) -> None:
    words = byte_level_vocabulary
    guess = Guess(
        compiler, words, {"rule": "guidance", "scale": 2.0, "scope": region},
        max_tokens=60, seed=1, rules_in_strings=True,
        json_schema={"type": "array", "items": {"type": "string"}},
    )  # fmt: skip
    acted = []
    text = '["aa","a'
    for char in text.encode():
        combined = guess.pipeline.combine(torch.zeros(2, guess.size), [1])
        assert combined.acted is not None
        acted.append(bool(combined.acted[0]))
        guess.pipeline.apply(combined, [1])
        guess.pipeline.slots.commit([1], [[words.token_bytes.index(bytes([char]))]])
    in_string = [place in (2, 3, 4, 7) for place in range(len(text))]
    assert acted == [one == (region == "outside_constraint") for one in in_string]


@pytest.mark.parametrize("rules", [[], [{"rule": "allowed_tokens", "strings": ["a", "b", " "]}]])
def test_raw_logprobs_and_ranks_are_those_of_the_unmasked_row(
    compiler: ConstraintCompiler, byte_level_vocabulary: Vocabulary, rules: list[dict[str, Any]]
) -> None:
    words = byte_level_vocabulary
    guess = Guess(compiler, words, *rules, max_tokens=20, seed=4, logprobs=3, regex="[ab]+ [ab]+")
    for _ in range(5):
        logits = torch.randn(1, guess.size, generator=guess.generator) * 3
        row = logits[0, : words.size].double()
        controlled = guess.pipeline.apply(logits.clone(), [1])
        selection = guess.pipeline.sample(controlled)
        token = int(selection.tokens[0])
        reported = selection.logprobs
        assert reported is not None
        expected = torch.log_softmax(row, 0)[token]
        assert float(reported.raw_logprob[0]) == pytest.approx(float(expected), abs=1e-5)
        assert int(reported.raw_rank[0]) == 1 + int((row > row[token]).sum())
        assert reported.top_raw.ids[0].tolist() == row.topk(3).indices.tolist()
        illegal = words.token_bytes.index(b"z")
        given = guess.pipeline.score(controlled, [illegal])
        assert float(given.controlled_logprob[0]) == -torch.inf
        raw = torch.log_softmax(row, 0)[illegal]
        assert float(given.raw_logprob[0]) == pytest.approx(float(raw), abs=1e-5)
        guess.pipeline.slots.commit([1], [[token]])


def test_a_text_is_closed_along_a_short_way_out_of_a_repetition(compiled: Compile) -> None:
    program = compiled(grammar="start: /[a-z]+( [a-z]+){2,4}@[a-z]+[.](com|org)/")
    assert program.close is not None
    assert len(program.close) <= len("a a a a a@a.com")
