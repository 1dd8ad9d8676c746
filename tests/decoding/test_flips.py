"""Flips against brute force: remove a rule alone, decode the same way again, draw once more."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.decoding.test_explaining_pipeline import rows
from tests.decoding.test_rules import PARAMS
from torch import Tensor

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.explanation import Explanation
from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RuleStage
from bosal_decoding.stopping import BanMatch, TextStop
from bosal_decoding.vocabulary import Vocabulary

# Not shrunk: every step decodes once per rule.
SLOW = settings(
    max_examples=16,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
MAX_TOKENS = 24
INSTRUCTION = [40, 41, 40, 20]
# Contributions of float32 arithmetic in another order.
TOLERANCE = 1e-4


@dataclass
class Decoding:
    """One choice in a pipeline of its own, as an engine would decode it."""

    pipeline: Pipeline
    plan: Plan
    seed: int
    stop: TextStop = field(init=False)
    num_forced: int = 0
    in_force: frozenset[int] = frozenset()
    bans: set[tuple[int, int]] = field(default_factory=set)

    def begin(self, compiler: ConstraintCompiler, opening: Opening) -> None:
        constraint = self.plan.recipe.constraint
        program = None
        if constraint is not None:
            program = compiler.compile(constraint, self.plan.vocabulary, "")
        self.pipeline.slots.add(
            0,
            self.plan,
            history=INSTRUCTION,
            seed=self.seed,
            choice=0,
            program=program,
            max_tokens=MAX_TOKENS,
            opening=opening,
        )
        self.stop = self.plan.text_stop()
        self.num_forced = len(opening.token_ids)

    def draw(self, streams: Tensor) -> tuple[Tensor, int]:
        """The controlled row and the token drawn."""
        streams = streams[: self.plan.num_streams].clone()
        self.pipeline.slots.start_masks([0])
        state = self.pipeline.apply(self.pipeline.combine(streams, [0]), [0])
        self.in_force = self.pipeline.slots.in_force(0, self.plan.text_scopes)
        return state.logits[0].clone(), int(self.pipeline.sample(state).tokens[0])

    def take(self, token: int, *, is_banning: bool = True) -> int | None:
        """Commit a token; where the rules ban it, take it back and return its position."""
        slots = self.pipeline.slots
        slots.commit([0], [[token]])
        if slots.settle(0) is Verdict.RETRACT:
            slots.retract(0)
            return None
        is_end = token in self.plan.eos_ids
        spelled = b"" if is_end else self.plan.vocabulary.bytes_of([token])
        match = self.stop.feed(spelled, token, self.in_force)
        if not isinstance(match, BanMatch) or not is_banning:
            return None
        # What is forced stands, and so does what came though it was banned.
        position, output = max(match.position, self.num_forced), slots.output(0)
        if output[position:] == () or (position, output[position]) in self.bans:
            return None
        self.bans.add((position, output[position]))
        slots.rollback(0, len(output) - position)
        slots.ban(0, position, output[position], match)
        self.stop.rewind(len(output) - position)
        return position

    def follow(self, token: int, position: int | None) -> None:
        """Take what another plan drew, and go back where it did; bans are this plan's own."""
        slots = self.pipeline.slots
        if self.take(token, is_banning=position is not None) is None and position is not None:
            count = len(slots.output(0)) - position
            slots.rollback(0, count)
            self.stop.rewind(count)


class Explained(Decoding):
    """A choice whose draws are explained."""

    def explain(self, streams: Tensor) -> tuple[Tensor, Explanation] | None:
        """The controlled row and what is said of the draw; None where the rules leave nothing."""
        pipeline = self.pipeline
        assert isinstance(pipeline, ExplainingPipeline)
        pipeline.slots.start_masks([0])
        state = pipeline.apply(pipeline.combine(streams.clone(), [0]), [0])
        self.in_force = pipeline.slots.in_force(0, self.plan.text_scopes)
        token = int(pipeline.sample(state).tokens[0])
        if token < 0:
            return None
        (one,) = pipeline.explanations(streams.clone(), state, [0], [token])
        return state.logits[0].clone(), one


def check(
    one: Explanation,
    row: Tensor,
    found: list[tuple[str, RuleStage, Tensor, int]],
    bare: int,
) -> None:
    """Hold an explanation against what came of every removal, in the recipe's order."""
    assert one.uncontrolled_token == bare
    pair = torch.tensor([one.token, bare])
    effects = list(one.effects)
    for name, stage, other, token in found:
        before, after = other[pair], row[pair]
        change = torch.where(before == after, 0.0, after - before)
        masked = 0
        if stage in (RuleStage.COMBINE, RuleStage.MASK):
            masked = int(((other > -torch.inf) & (row == -torch.inf)).sum())
        decides = not one.is_unchanged and 0 <= token != one.token
        if not (bool(change.any()) or masked or decides):
            # It did nothing, and is not listed here.
            continue
        assert effects, name
        effect = effects.pop(0)
        assert effect.rule == name
        assert [effect.on_chosen, effect.on_uncontrolled] == pytest.approx(
            change.tolist(), abs=TOLERANCE
        ), name
        assert effect.masked_tokens == masked, name
        if one.is_unchanged:
            assert effect.token_without is None
            assert not effect.flips
        else:
            assert effect.token_without == (token if token >= 0 else None), name
            assert effect.flips == (token == bare), name
    assert not effects


def removals(recipe: Recipe) -> list[tuple[str, RuleStage, Recipe]]:
    """The recipe without each rule that can change a row, then without the constraint."""
    document = recipe.document()
    kept = [
        (rule.name, rule.stage, place)
        for place, rule in enumerate(recipe.rules)
        if rule.stage not in (RuleStage.FORCE, RuleStage.STOP)
    ]
    rules = document.get("rules", [])
    less: list[tuple[str, RuleStage, Recipe]] = [
        (name, stage, Recipe.parse(document | {"rules": rules[:place] + rules[place + 1 :]}))
        for name, stage, place in kept
    ]
    if recipe.constraint is not None:
        less.append(("constraint", RuleStage.MASK, Recipe.parse(document | {"constraint": None})))
    return less


def follow(
    vocabulary: Vocabulary,
    document: dict[str, Any],
    compiler: ConstraintCompiler,
    *,
    seed: int,
    num_steps: int,
    scale: float = 1.0,
    opening: Opening = UNOPENED,
) -> list[Explanation]:
    """Explain a few draws, each held against brute force."""

    def compiled(recipe: Recipe) -> Plan:
        return compile_recipe(recipe, vocabulary, context_tokens=512)

    plan = compiled(Recipe.parse(document))
    one = Explained(ExplainingPipeline(vocabulary.size, 1), plan, seed)
    one.begin(compiler, opening)
    assert isinstance(one.pipeline, ExplainingPipeline)
    one.pipeline.explain(0, Counterfactuals.of(plan), history=INSTRUCTION, seed=seed, choice=0)

    def beginning(recipe: Recipe) -> Decoding:
        again = Decoding(Pipeline(vocabulary.size, 1), compiled(recipe), seed)
        again.begin(compiler, opening)
        return again

    others = [(name, stage, beginning(recipe)) for name, stage, recipe in removals(plan.recipe)]
    bare = beginning(Recipe.parse(document | {"rules": [], "constraint": None}))
    explanations = []
    for turn in range(num_steps):
        streams = rows(seed + turn, plan.num_streams, vocabulary.size) * scale
        limits = one.pipeline.slots.surprise.limits([0])
        explained = one.explain(streams)
        if explained is None:
            break
        row, explanation = explained
        found = []
        for name, stage, other in others:
            if limits is not None and other.pipeline.slots.state.mirostat.is_used:
                # The draws that were taken taught it.
                other.pipeline.slots.surprise.limit([0], limits)
            found.append((name, stage, *other.draw(streams)))
        check(explanation, row, found, bare.draw(streams)[1])
        explanations.append(explanation)
        position = one.take(explanation.token)
        for other in (*(other for _, _, other in others), bare):
            other.follow(explanation.token, position)
        if explanation.token in plan.eos_ids or one.pipeline.slots.settle(0) is not Verdict.GO_ON:
            break
    for again in (one, bare, *(other for _, _, other in others)):
        again.pipeline.close()
    return explanations


@pytest.fixture(scope="module")
def compiler() -> Any:
    made = ConstraintCompiler()
    yield made
    made.close()


SCOPE = st.fixed_dictionaries(
    {},
    optional={
        "first": st.integers(2, 4),
        "after": st.integers(0, 1),
        "region": st.sampled_from(["inside_constraint", "outside_constraint", "everywhere"]),
    },
)
GATE = st.sampled_from(
    [{"top1_below": 0.2}, {"entropy_above": 3.0}, {"top1_below": 0.5, "entropy_above": 2.0}]
)
STRINGS = st.lists(
    st.sampled_from(["a", "e", "t", " t", "I", "in", "he", '"', "s"]),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip
COUPLINGS = st.sampled_from(
    [
        {"rule": "guidance", "scale": 2.5},
        {"rule": "guidance", "scale": 1.5, "plausibility": 0.05},
        {"rule": "contrastive", "amateur_prompt": "Say nothing.", "beta": 0.5},
        {"rule": "blend", "guide_scaffold": {"kind": "qa"}, "weight": 0.8},
    ]
)
CONSTRAINTS = st.sampled_from(
    [
        {"choice": ["the river", "a lake", "I know", "That is it"]},
        {"regex": "[a-z ]{1,30}"},
        {"json_schema": '{"type":"array","items":{"type":"string"}}', "rules_in_strings": True},
        {"json_schema": '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}'},
    ]
)


@st.composite
def documents(draw: Callable[[Any], Any]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(PARAMS)), unique=True, max_size=6))
    if "temperature" in names and "dynamic_temperature" in names:
        names.remove("temperature")
    # Comes last in any chain.
    names.sort(key=lambda name: name == "mirostat")
    rules: list[dict[str, Any]] = [{"rule": name, **draw(PARAMS[name])} for name in names]
    if draw(st.booleans()):
        rules.insert(0, draw(COUPLINGS))
    for first in draw(st.sampled_from([[], [None], [2, None]])):
        rules.insert(
            draw(st.integers(0, len(names))),
            {
                "rule": "banned_strings",
                "values": draw(STRINGS),
                **({} if first is None else {"scope": {"first": first}}),
            },
        )
    bans = [rule for rule in rules if rule["rule"] == "banned_strings"]
    if len(bans) == 2:
        next(rule for rule in bans if "scope" not in rule)["scope"] = {"after": 2}
    for rule in rules:
        if rule not in bans and draw(st.booleans()):
            rule["scope"] = draw(SCOPE)
        if draw(st.integers(0, 3)) == 0:
            rule["when"] = draw(GATE)
    constraint = draw(st.none() | CONSTRAINTS)
    return {"rules": rules, **({"constraint": constraint} if constraint else {})}


@SLOW
@given(
    document=documents(),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.3, 1.0]),
    opening=st.sampled_from([UNOPENED, Opening(token_ids=(40, 41))]),
)
def test_removing_each_rule_alone_and_drawing_again_says_what_it_did(
    vocabulary: Vocabulary,
    compiler: ConstraintCompiler,
    document: dict[str, Any],
    seed: int,
    scale: float,
    opening: Opening,
) -> None:
    try:
        compile_recipe(Recipe.parse(document), vocabulary, context_tokens=512)
    except DecodingError:
        return  # its rules contradict each other
    if "constraint" in document:
        opening = UNOPENED
    follow(vocabulary, document, compiler, seed=seed, num_steps=5, scale=scale, opening=opening)


@pytest.mark.parametrize("region", ["inside_constraint", "outside_constraint"])
def test_rules_that_act_in_the_strings_of_a_constraint_are_explained_there(
    vocabulary: Vocabulary, compiler: ConstraintCompiler, region: str
) -> None:
    schema = '{"type":"array","items":{"type":"string"},"minItems":2}'
    document = {
        "constraint": {"json_schema": schema, "rules_in_strings": True},
        "rules": [
            {"rule": "guidance", "scale": 3.0, "scope": region},
            {"rule": "presence_penalty", "value": 2.0},
            {"rule": "banned_strings", "values": ["e", "a"], "scope": region},
            {"rule": "logit_bias", "strings": {"[": 9.0, '"': 6.0, ",": 9.0}},
        ],
    }
    found = follow(vocabulary, document, compiler, seed=3, num_steps=10)
    listed = {effect.rule for one in found for effect in one.effects}
    assert "guidance" in listed
