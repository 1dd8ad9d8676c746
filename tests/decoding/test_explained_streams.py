"""Explanations of coupled streams and of constraints: the constraint and the coupling are rules."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.decoding.test_explaining_pipeline import log_softmax, rows
from tests.decoding.test_pipeline import plan_of

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.explanation import Explanation
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.vocabulary import Vocabulary

GUIDED: dict[str, Any] = {
    "rules": [
        {"rule": "guidance", "scale": 3.0},
        {"rule": "logit_bias", "ids": {str(token): 2.5 for token in range(20, 60)}},
        {"rule": "temperature", "value": 0.8},
    ]
}
BEGUN: dict[str, Any] = {"history": [], "seed": 11, "choice": 0}


def drawn_alone(plan: Plan, streams: torch.Tensor, output: list[int]) -> tuple[torch.Tensor, int]:
    """What a pipeline of its own makes of rows: the controlled row and the token."""
    pipeline = Pipeline(streams.shape[1], 1)
    pipeline.slots.add(0, plan, **BEGUN)
    pipeline.slots.commit([0], [output])
    state = pipeline.apply(pipeline.combine(streams.clone(), [0]), [0])
    return state.logits[0], int(pipeline.sample(state).tokens[0])


def test_a_coupling_is_explained_like_any_rule(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, GUIDED)
    counterfactuals = Counterfactuals.of(plan)
    pipeline = ExplainingPipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, **BEGUN)
    pipeline.explain(0, counterfactuals, **BEGUN)
    output: list[int] = []
    changed = 0
    for turn in range(12):
        streams = rows(turn, 2, vocabulary.size)
        state = pipeline.apply(pipeline.combine(streams.clone(), [0]), [0])
        token = int(pipeline.sample(state).tokens[0])
        (one,) = pipeline.explanations(streams.clone(), state, [0], [token])
        base = streams[0].double().numpy()
        # The raw side is the base stream's, not the combined row's.
        assert one.raw_logprob == pytest.approx(log_softmax(base)[token], abs=1e-4)
        assert one.raw_argmax == int(base.argmax())
        bare = plan_of(vocabulary, {"rules": []})
        assert one.uncontrolled_token == drawn_alone(bare, streams[:1], output)[1]
        whole = state.logits[0]
        effects = {effect.rule: effect for effect in one.effects}
        for without in counterfactuals.without:
            own = streams[:1] if without.rule == "guidance" else streams
            row, expected = drawn_alone(without.plan, own, output)
            effect = effects.get(without.rule)
            change = float(whole[token] - row[token])
            assert change == pytest.approx(effect.on_chosen if effect else 0.0, abs=1e-4)
            if effect is not None and not one.is_unchanged:
                assert effect.token_without == expected
                assert effect.flips == (expected == one.uncontrolled_token)
        changed += not one.is_unchanged
        output.append(token)
        pipeline.slots.commit([0], [[token]])
    assert changed > 3


def test_a_constraint_is_explained_and_binds_its_neighbours_counterfactuals(
    vocabulary: Vocabulary,
) -> None:
    fields = {"choice": ["the river", "a lake", "I know"]}
    document = {
        "constraint": fields,
        "rules": [
            {"rule": "logit_bias", "strings": {"I": 4.0, "t": 2.0}},
            {"rule": "temperature", "value": 1.3},
        ],
    }
    plan = plan_of(vocabulary, document)
    counterfactuals = Counterfactuals.of(plan)
    compiler = ConstraintCompiler()
    program = compiler.compile(Constraint.read(fields, "constraint"), vocabulary, "")
    compiler.close()
    pipeline = ExplainingPipeline(vocabulary.size, 3)
    pipeline.slots.add(2, plan, program=program, max_tokens=20, **BEGUN)
    pipeline.explain(2, counterfactuals, **BEGUN)
    # A neighbour without a constraint, explained too.
    free = plan_of(vocabulary, {"rules": document["rules"]})
    pipeline.slots.add(0, free, **BEGUN)
    pipeline.explain(0, Counterfactuals.of(free), **BEGUN)
    found: list[Explanation] = []
    for turn in range(3):
        logits = rows(turn + 50, 2, vocabulary.size)
        state = pipeline.apply(logits.clone(), [0, 2])
        tokens = pipeline.sample(state).tokens.tolist()
        neighbour, one = pipeline.explanations(logits.clone(), state, [0, 1], tokens)
        assert "constraint" not in {effect.rule for effect in neighbour.effects}
        legal = np.isfinite(state.logits[1].numpy())
        effects = {effect.rule: effect for effect in one.effects}
        assert effects["constraint"].masked_tokens == vocabulary.size - int(legal.sum())
        assert neighbour.forbidden_mass == 0
        for name, effect in effects.items():
            if effect.token_without is not None and name != "constraint":
                assert legal[effect.token_without], name
        if not one.is_unchanged and not legal[one.uncontrolled_token]:
            assert effects["constraint"].on_uncontrolled == -math.inf
        found.append(one)
        pipeline.slots.commit([0, 2], [[token] for token in tokens])
    assert any(not one.is_unchanged for one in found)
    pipeline.close()


@pytest.mark.parametrize("moves", [False, True])
def test_rules_inside_of_a_constraint_are_explained_from_the_first_token(
    vocabulary: Vocabulary, moves: bool
) -> None:
    fields = {"choice": ["the river", "a lake", "I know"]}
    bias = {"rule": "logit_bias", "strings": {"I": 4.0, "t": 2.0}, "scope": "inside_constraint"}
    away = {"rule": "presence_penalty", "value": 1.0, "scope": "outside_constraint"}
    plan = plan_of(vocabulary, {"constraint": fields, "rules": [bias, away]})
    compiler = ConstraintCompiler()
    program = compiler.compile(Constraint.read(fields, "constraint"), vocabulary, "")
    compiler.close()
    pipeline = ExplainingPipeline(vocabulary.size, 12)
    pipeline.slots.add(0, plan, program=program, max_tokens=20, **BEGUN)
    pipeline.explain(0, Counterfactuals.of(plan), **BEGUN)
    if moves:
        for slot in range(1, 12):
            pipeline.slots.add(slot, plan, program=program, max_tokens=20, **BEGUN)
            pipeline.explain(slot, Counterfactuals.of(plan), **BEGUN)
    logits = rows(50, 1, vocabulary.size)
    state = pipeline.apply(logits.clone(), [0])
    tokens = pipeline.sample(state).tokens.tolist()
    (one,) = pipeline.explanations(logits, state, [0], tokens)
    effects = {effect.rule: effect for effect in one.effects}
    assert set(effects) == {"logit_bias", "constraint"}
    assert one.token in vocabulary.ids_of("I")
    assert effects["logit_bias"].on_chosen == 4.0
    pipeline.close()
