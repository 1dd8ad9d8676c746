"""Rules of other packages: what the pipeline gives them, takes from them, and forgives."""

import time
from collections.abc import Sequence
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import InvalidRecipe, PluginFault, RuleUnsupported
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.recipe_processor import RecipeProcessor
from bosal_decoding.rules import PluginRule, Rule, RuleStage, Turn
from bosal_decoding.rules.truncation import Temperature
from bosal_decoding.rules.weights import LogitBias
from bosal_decoding.vocabulary import Vocabulary


class Echo(PluginRule):
    """Adds to the tokens of instruction and output, by how often they occurred."""

    name = "echo"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"
    package = "tests 1.0"

    weight: float = 1.0

    def begin(self, prepared: None, history: Sequence[int]) -> list[int]:
        return list(history)

    def advance(self, state: list[int], tokens: Sequence[int]) -> list[int]:
        return state + list(tokens)

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        weights = torch.zeros_like(rows)
        for row, turn in zip(weights, turns, strict=True):
            for token in turn.state:
                row[token] += turn.rule.weight
        # What a rule does to its copy is nobody's concern.
        rows.fill_(torch.nan)
        return weights


class Odd(PluginRule):
    """Forbids odd tokens."""

    name = "odd"
    stage = RuleStage.MASK
    summary = formula = source = "a test"

    def prepare(self, vocabulary: Vocabulary) -> Tensor:
        return torch.arange(vocabulary.size) % 2 == 1

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        return torch.stack([turn.state for turn in turns])


class Broken(PluginRule):
    """Fails in the way its parameter says."""

    name = "broken"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"
    package = "tests 1.0"

    how: str = ""

    def prepare(self, vocabulary: Vocabulary) -> None:
        if self.how == "refuse":
            raise RuleUnsupported("broken", "it does not like the tokenizer", field="")
        if self.how == "prepare":
            raise KeyError("nothing there")

    def begin(self, prepared: None, history: Sequence[int]) -> int:
        if self.how == "begin":
            raise KeyError("no beginning")
        return 0

    def advance(self, state: int, tokens: Sequence[int]) -> int:
        if self.how == "advance":
            raise KeyError("no way on")
        return state + len(tokens)

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Any:
        hows = [turn.rule.how for turn in turns]
        weights = torch.zeros_like(rows)
        for row, how in zip(weights, hows, strict=True):
            row[3] = torch.nan if how == "nan" else torch.inf if how == "infinite" else 1.0
        if "raise" in hows:
            raise ZeroDivisionError("by nought")
        if "shape" in hows:
            return weights[:, :-1]
        if "type" in hows:
            return weights.double()
        if "none" in hows:
            return None
        return weights


def planned(vocabulary: Vocabulary, *rules: Rule) -> Plan:
    return compile_recipe(Recipe(rules=rules), vocabulary, context_tokens=512)


def batch(vocabulary: Vocabulary, *plans: Plan, **options: Any) -> Pipeline:
    pipeline = Pipeline(vocabulary.size, len(plans), **options)
    for slot, plan in enumerate(plans):
        pipeline.slots.add(slot, plan, history=[5, 6], seed=slot, choice=0, logprobs=0)
    return pipeline


def logits(num_rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed))


def test_a_plugin_adds_its_weights_before_the_rules_that_are_built_in(
    vocabulary: Vocabulary,
) -> None:
    plan = planned(vocabulary, LogitBias(ids={7: 2.0}), Echo(weight=3.0))
    pipeline = batch(vocabulary, plan)
    pipeline.slots.commit([0], [[7, 6]])
    rows = logits(1, vocabulary.size)
    expected = rows.clone()
    for token, weight in ((5, 3.0), (6, 6.0), (7, 5.0)):
        expected[0, token] += weight
    controlled = pipeline.apply(rows, [0])
    torch.testing.assert_close(controlled.logits, expected)
    assert pipeline.take_faults() == {}


def test_a_plugin_forbids_tokens(vocabulary: Vocabulary) -> None:
    pipeline = batch(vocabulary, planned(vocabulary, Odd()))
    rows = logits(1, vocabulary.size)
    kept = pipeline.apply(rows.clone(), [0]).logits[0].isfinite()
    assert kept.tolist() == [token % 2 == 0 for token in range(vocabulary.size)]


def test_raw_log_probabilities_are_of_the_row_before_it(vocabulary: Vocabulary) -> None:
    rows = logits(1, vocabulary.size)
    with_it = batch(vocabulary, planned(vocabulary, Echo(weight=3.0)))
    selection = with_it.sample(with_it.apply(rows.clone(), [0]))
    token = int(selection.tokens[0])
    assert selection.logprobs is not None
    raw = float(selection.logprobs.raw_logprob[0])
    assert raw == pytest.approx(float(rows.double().log_softmax(1)[0, token]), abs=1e-5)


def test_padding_of_the_head_is_not_shown(vocabulary: Vocabulary) -> None:
    plan = planned(vocabulary, Odd(), Echo())
    pipeline = Pipeline(vocabulary.size + 24, 1)
    pipeline.slots.add(0, plan, history=[5], seed=0, choice=0)
    controlled = pipeline.apply(logits(1, vocabulary.size + 24), [0])
    assert pipeline.take_faults() == {}
    assert not controlled.logits[0, vocabulary.size :].isfinite().any()


def test_state_follows_the_output_back_and_forth(vocabulary: Vocabulary) -> None:
    """As if what was taken back had never been."""
    plan = planned(vocabulary, Echo())
    pipeline, fresh = batch(vocabulary, plan), batch(vocabulary, plan)
    rows = logits(1, vocabulary.size)
    pipeline.slots.commit([0], [[7, 8]])
    pipeline.apply(rows.clone(), [0])
    pipeline.slots.commit([0], [[9]])
    pipeline.slots.rollback(0, 2)
    pipeline.slots.commit([0], [[10, 11]])
    fresh.slots.commit([0], [[7, 10, 11]])
    assert torch.equal(
        pipeline.apply(rows.clone(), [0]).logits, fresh.apply(rows.clone(), [0]).logits
    )


def test_a_slot_forgets_the_choice_before(vocabulary: Vocabulary) -> None:
    pipeline = batch(vocabulary, planned(vocabulary, Echo()))
    pipeline.apply(logits(1, vocabulary.size), [0])
    pipeline.slots.free(0)
    pipeline.slots.add(0, planned(vocabulary), history=[5], seed=0, choice=0)
    rows = logits(1, vocabulary.size)
    assert torch.equal(pipeline.apply(rows.clone(), [0]).logits, rows)


def test_a_row_does_not_depend_on_its_neighbours(vocabulary: Vocabulary) -> None:
    plans = [
        planned(vocabulary, Echo(weight=0.1), Odd()),
        planned(vocabulary),
        planned(vocabulary, Echo(weight=0.7)),
        planned(vocabulary, Odd()),
    ]
    rows = logits(4, vocabulary.size)
    together = batch(vocabulary, *plans).apply(rows.clone(), [0, 1, 2, 3]).logits
    turned = batch(vocabulary, *plans).apply(rows.flip(0).contiguous(), [3, 2, 1, 0]).logits
    assert torch.equal(turned.flip(0), together)
    for slot in range(4):
        alone = batch(vocabulary, *plans).apply(rows[slot : slot + 1].clone(), [slot]).logits
        assert torch.equal(alone[0], together[slot])


@pytest.mark.parametrize(
    ("limits", "acts"),
    [
        ({"scope": {"first": 1}}, [True, False, False]),
        ({"scope": {"after": 1, "first": 2}}, [False, True, False]),
        ({"when": {"top1_below": 1e-6}}, [False, False, False]),
        ({"when": {"entropy_above": 0.5}}, [True, True, True]),
    ],
)
def test_a_plugin_has_a_scope_and_a_gate(
    vocabulary: Vocabulary, limits: dict[str, Any], acts: list[bool]
) -> None:
    pipeline = batch(vocabulary, planned(vocabulary, Echo.read({"weight": 2.0, **limits}, "")))
    for expected in acts:
        rows = logits(1, vocabulary.size)
        acted = not torch.equal(pipeline.apply(rows.clone(), [0]).logits, rows)
        assert acted is expected
        pipeline.slots.commit([0], [[9]])


def test_gates_of_built_in_rules_read_the_models_row(vocabulary: Vocabulary) -> None:
    """A plug-in that makes a token certain does not close a gate for certainty."""
    bias = LogitBias.read({"ids": {20: 1.0}, "when": {"entropy_above": 1.0}}, "")
    pipeline = batch(vocabulary, planned(vocabulary, Echo(weight=1000.0), bias))
    rows = logits(1, vocabulary.size)
    controlled = pipeline.apply(rows.clone(), [0]).logits
    assert float(controlled[0, 20]) == pytest.approx(float(rows[0, 20]) + 1.0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("raise", "ZeroDivisionError: by nought"),
        ("shape", "not torch.float32"),
        ("type", "torch.float64"),
        ("none", "NoneType"),
        ("begin", "no beginning"),
        ("advance", "no way on"),
    ],
)
def test_a_fault_costs_its_own_row_alone(vocabulary: Vocabulary, how: str, said: str) -> None:
    plans = [
        planned(vocabulary, Broken()),
        planned(vocabulary, Broken(how=how)),
        planned(vocabulary, Echo()),
        planned(vocabulary),
    ]
    sound = [plans[0], planned(vocabulary), plans[2], plans[3]]
    rows = logits(4, vocabulary.size)
    results = []
    for some in (plans, sound):
        pipeline = batch(vocabulary, *some)
        pipeline.slots.commit([0, 1, 2, 3], [[9]] * 4)
        controlled = pipeline.apply(rows.clone(), [0, 1, 2, 3])
        results.append((controlled.logits, pipeline.take_faults()))
    (with_fault, faults), (without, none) = results
    assert none == {}
    # The row itself is as if there were no rule.
    assert torch.equal(with_fault, without)
    assert list(faults) == [1]
    assert "rule 'broken' of tests 1.0 failed" in str(faults[1])
    assert said in str(faults[1])
    assert pipeline.take_faults() == {}


class Sleepy(PluginRule):
    """Does not come back before it is told to."""

    name = "sleepy"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"

    wake: ClassVar[Event] = Event()

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        cls.wake.wait(60)
        return torch.zeros_like(rows)


def test_a_plugin_that_takes_too_long_is_not_waited_for(vocabulary: Vocabulary) -> None:
    Sleepy.wake.clear()
    plans = [planned(vocabulary, Sleepy()), planned(vocabulary, Odd())]
    pipeline = batch(vocabulary, *plans, plugin_seconds=0.05)
    rows = logits(2, vocabulary.size)
    pipeline.apply(rows.clone(), [0, 1])
    faults = pipeline.take_faults()
    assert list(faults) == [0]
    assert "longer than 0.05 s" in str(faults[0])
    # While it is at it, nobody waits for it again.
    pipeline.apply(rows.clone(), [0, 1])
    assert "has not returned" in str(pipeline.take_faults()[0])
    Sleepy.wake.set()
    for _ in range(200):
        pipeline.apply(rows.clone(), [0, 1])
        if not pipeline.take_faults():
            return
        time.sleep(0.05)
    raise AssertionError("it is refused for ever")


def test_a_plugin_refuses_a_recipe_or_fails_at_it(vocabulary: Vocabulary) -> None:
    with pytest.raises(RuleUnsupported, match="does not like") as refused:
        planned(vocabulary, Broken(how="refuse"))
    assert refused.value.reason == "RULE_UNSUPPORTED"
    with pytest.raises(
        PluginFault, match=r"rules\[0\]: rule 'broken' of tests 1.0 failed"
    ) as fault:
        planned(vocabulary, Broken(how="prepare"))
    assert fault.value.field == "rules[0]"
    with pytest.raises(InvalidRecipe, match="unknown field"):
        Broken.read({"hou": "nan"}, "rules[0]")


def test_draws_are_explained_by_plugins_too(vocabulary: Vocabulary) -> None:
    plan = planned(vocabulary, Temperature(value=0.0), Odd())
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[5], seed=0, choice=0)
    pipeline.explain(0, Counterfactuals.of(plan), history=[5], seed=0, choice=0)
    rows = torch.zeros(1, vocabulary.size)
    rows[0, 21], rows[0, 20] = 60.0, 30.0
    streams = rows.clone()
    controlled = pipeline.apply(pipeline.combine(rows, [0]), [0])
    token = int(pipeline.sample(controlled).tokens[0])
    (found,) = pipeline.explanations(streams, controlled, [0], [token])
    assert (token, found.uncontrolled_token) == (20, 21)
    (effect,) = [one for one in found.effects if one.rule == "odd"]
    assert effect.flips
    assert effect.masked_tokens == vocabulary.size // 2
    pipeline.close()


def test_a_plugin_of_an_explained_choice_may_fail(vocabulary: Vocabulary) -> None:
    plan = planned(vocabulary, Broken(how="raise"), Odd())
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[5], seed=0, choice=0)
    pipeline.explain(0, Counterfactuals.of(plan), history=[5], seed=0, choice=0)
    rows = logits(1, vocabulary.size)
    streams = rows.clone()
    controlled = pipeline.apply(pipeline.combine(rows, [0]), [0])
    assert list(pipeline.take_faults()) == [0]
    with pytest.raises(PluginFault, match="by nought"):
        pipeline.explanations(streams, controlled, [0], [2])


def test_the_time_it_takes_is_its_own(vocabulary: Vocabulary) -> None:
    pipeline = batch(vocabulary, planned(vocabulary, Odd()))
    pipeline.apply(logits(1, vocabulary.size), [0])
    assert pipeline.take_plugin_seconds()["odd"] > 0
    assert pipeline.take_plugin_seconds() == {}


def test_a_processors_calls_leave_no_threads_of_plugins_behind(vocabulary: Vocabulary) -> None:
    recipe = Recipe(rules=(Echo(),))
    processor = RecipeProcessor(recipe, vocabulary, context_tokens=64)

    def num_threads() -> int:
        return sum(thread.name == "bosal-step-echo" for thread in enumerate_threads())

    before = num_threads()
    for _ in range(4):
        arguments = processor.arguments("Why?", max_tokens=2)
        processor(arguments["input_ids"], torch.zeros(1, vocabulary.size))
    deadline = time.monotonic() + 5
    while num_threads() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() <= before + 1
