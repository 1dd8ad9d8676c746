"""A rule of another package that fails takes its own request with it, and nobody else's."""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import PluginFault
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import PluginRule, RuleStage, Turn
from bosal_decoding.rules.truncation import Temperature
from bosal_server.model import LoadedModel

from .bench import Bench


class Failing(PluginRule):
    """Works for three tokens."""

    name = "failing"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"
    package = "tests 1.0"

    how: str
    gone: ClassVar[Event] = Event()

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        weights = torch.zeros_like(rows)
        for row, turn in zip(weights, turns, strict=True):
            if len(turn.output) < 3:
                continue
            if turn.rule.how == "nan":
                row.fill_(torch.nan)
            elif turn.rule.how == "raise":
                raise RuntimeError("out of ideas")
            elif turn.rule.how == "sleep":
                cls.gone.wait(60)
        return weights


@pytest.fixture
def failing_plan(tiny_llama: LoadedModel) -> Callable[[str], Plan]:
    def make(how: str) -> Plan:
        recipe = Recipe(rules=(Temperature(value=0.0), Failing(how=how)))
        return compile_recipe(
            recipe, tiny_llama.vocabulary, context_tokens=tiny_llama.context_tokens
        )

    return make


@pytest.mark.parametrize("is_explained", [False, True])
@pytest.mark.parametrize("how", ["nan", "raise", "sleep"])
def test_only_the_request_with_the_rule_fails(
    make_bench: Callable[..., Bench],
    make_plan: Callable[..., Plan],
    failing_plan: Callable[[str], Plan],
    how: str,
    is_explained: bool,
) -> None:
    Failing.gone.clear()
    options: dict[str, Any] = {"max_tokens": 8}
    plain = make_plan()
    alone = make_bench()
    expected = alone.submit(plain, [5, 6, 7], **options)
    alone.run()
    # Time enough for a sound call on a busy machine.
    bench = make_bench(plugin_seconds=0.2 if how == "sleep" else 30.0)
    plan = failing_plan(how)
    explain = Counterfactuals.of(plan) if is_explained else None
    failed = bench.submit(plan, [5, 6, 7], explain=explain, num_choices=2, **options)
    neighbour = bench.submit(plain, [5, 6, 7], **options)
    if is_explained:
        options["explain"] = Counterfactuals.of(plain)
    other = bench.submit(plain, [5, 6, 7], **options)
    bench.run()
    Failing.gone.set()
    assert isinstance(failed.error, PluginFault)
    assert "rule 'failing' of tests 1.0 failed" in str(failed.error)
    assert failed.error.metadata == {"rule": "failing", "package": "tests 1.0"}
    for answer in (neighbour, other):
        assert answer.tokens() == expected.tokens()
    assert bench.held_blocks == 0


def test_a_sound_rule_beside_a_faulty_one_goes_on(
    make_bench: Callable[..., Bench], failing_plan: Callable[[str], Plan]
) -> None:
    bench = make_bench()
    failed = bench.submit(failing_plan("raise"), [5, 6, 7], max_tokens=8)
    sound = bench.submit(failing_plan("never"), [5, 6, 7], max_tokens=8)
    bench.run()
    assert isinstance(failed.error, PluginFault)
    assert sound.finished.endings[0].output_tokens == len(sound.tokens())


def test_scoring_fails_with_the_rule_too(
    make_bench: Callable[..., Bench], failing_plan: Callable[[str], Plan]
) -> None:
    bench = make_bench()
    scored = bench.submit(
        failing_plan("raise"), [5, 6, 7], continuation=(8, 9, 10, 11), max_tokens=4, logprobs=0
    )
    bench.run()
    assert isinstance(scored.error, PluginFault)
