"""The memory of explained choices: within its bound, however much they list, read and say."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bosal_decoding.compile import compile
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.shadows import shadow_bytes
from bosal_decoding.vocabulary import Vocabulary

RULES: list[dict[str, Any]] = [
    {"rule": "repetition_penalty", "value": 1.2, "window": 50},
    {"rule": "presence_penalty", "value": 1.0},
    {"rule": "dry", "multiplier": 0.8},
    {"rule": "no_repeat_ngram", "n": 3},
    {"rule": "allowed_tokens", "ids": list(range(3, 300))},
    {"rule": "banned_strings", "values": ["never"]},
    {"rule": "mirostat", "tau": 4.0},
]


def plan_of(vocabulary: Vocabulary, rules: list[dict[str, Any]]) -> Plan:
    return compile(Recipe.parse({"rules": rules}), vocabulary, context_tokens=1 << 16)


def explain(pipeline: ExplainingPipeline, slot: int, plan: Plan, history: tuple[int, ...]) -> None:
    pipeline.slots.add(slot, plan, history=history, seed=1, choice=slot)
    counterfactuals = Counterfactuals.of(plan)
    pipeline.explain(slot, counterfactuals, history=history, seed=1, choice=slot)


def tensors(one: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that an object of ours holds, however deep."""
    if id(one) in seen:
        return
    seen.add(id(one))
    if isinstance(one, Tensor):
        yield one
    elif isinstance(one, dict):
        for each in one.values():
            yield from tensors(each, seen)
    elif isinstance(one, list | tuple | set):
        for each in one:
            yield from tensors(each, seen)
    elif type(one).__module__.startswith("bosal"):
        slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in (*getattr(one, "__dict__", {}), *slots):
            yield from tensors(getattr(one, name, None), seen)


def num_bytes(shadows: Any) -> int:
    storages = {}
    for one in tensors(shadows._pipeline, set()):
        storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


def test_a_shadow_takes_no_more_than_its_price(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, RULES)
    sizes: dict[tuple[int, int], float] = {}
    for head, context in ((2_000, 200), (60_000, 200), (2_000, 1_500), (60_000, 6_000)):
        pipeline = ExplainingPipeline(head, 1)
        tokens = [3 + token % (vocabulary.size - 3) for token in range(context)]
        half = context // 2
        explain(pipeline, 0, plan, tuple(tokens[:half]))
        for place in range(half, context, 700):
            pipeline.slots.commit([0], [tokens[place : place + 700]])
        shadows = pipeline._shadows
        sizes[head, context] = num_bytes(shadows) / shadows._capacity
        assert sizes[head, context] <= shadow_bytes(head, context)
    # What each token of the vocabulary and each of the context adds is bounded by itself.
    by_head = sizes[60_000, 200] - sizes[2_000, 200]
    assert by_head <= shadow_bytes(60_000, 0) - shadow_bytes(2_000, 0)
    by_context = sizes[2_000, 1_500] - sizes[2_000, 200]
    assert by_context <= shadow_bytes(0, 1_500) - shadow_bytes(0, 200)


def test_there_is_room_for_so_many_shadows_and_no_more(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, RULES)
    each = Counterfactuals.of(plan).num_plans
    assert each == 1 + len(RULES)
    most = 5 * each + 3
    pipeline = ExplainingPipeline(vocabulary.size, 8, max_shadows=most)
    capacities = set()
    for slot in range(5):
        explain(pipeline, slot, plan, (5, 6, 7))
        capacities.add(pipeline._shadows._capacity)
    assert max(capacities) == most
    with pytest.raises(ValueError, match="48 shadows, of which there may be 43"):
        explain(pipeline, 5, plan, (5, 6, 7))
    pipeline.slots.free(2)
    explain(pipeline, 5, plan, (5, 6, 7))
    assert pipeline._shadows._capacity == most


def test_others_count_with_what_they_have_of_their_own(vocabulary: Vocabulary) -> None:
    one = Counterfactuals.of(plan_of(vocabulary, RULES[:2]))
    other = Counterfactuals.of(plan_of(vocabulary, RULES[1:4]))
    assert one.against([other, other]).num_plans == 3 + 2 * (1 + 2)


def test_the_old_place_is_given_back_before_the_new_one_is_taken(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ExplainingPipeline(vocabulary.size, 8)
    shadows = pipeline._shadows
    opened = []
    whole = type(shadows)._open

    def counted(self: Any) -> Any:
        opened.append((self._capacity, self._pipeline.slots.state.num_slots))
        return whole(self)

    monkeypatch.setattr(type(shadows), "_open", counted)
    plan = plan_of(vocabulary, RULES)
    for slot in range(4):
        explain(pipeline, slot, plan, (5, 6))
    assert [new for new, _ in opened if new] == [16, 32]
    assert all(not new or not old for new, old in opened)
    assert torch.is_tensor(shadows._pipeline.slots.state.position)
