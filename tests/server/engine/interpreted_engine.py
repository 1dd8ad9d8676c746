"""Run by its test under Triton's interpreter: an engine on a device that is simulated.

It draws what the CPU's engine draws, and of each step waits for the device where tokens come down,
and nowhere else.
"""

from tests.kernels import interpreter  # noqa: F401, I001

from dataclasses import asdict, replace
from typing import Any

import pytest
from tests.simulated_device import put, simulated_device

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.fused_draw import FusedDraw
from bosal_decoding.recipe import Recipe
from bosal_server.engine.request import TokensEvent
from bosal_server.model import LoadedModel

from .bench import Answer, Bench
from .device_requests import engine, submit


# Of differences of -inf in lanes that are masked afterwards: the interpreter is numpy.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_step_waits_for_its_device_where_tokens_come_down_and_nowhere_else(
    tiny_llama: LoadedModel,
) -> None:
    on_cpu = engine(tiny_llama)
    wanted = submit(on_cpu, tiny_llama)
    on_cpu.run()
    with simulated_device() as device:
        for tensor in (*tiny_llama.model.parameters(), *tiny_llama.model.buffers()):
            put(tensor)
        bench = engine(replace(tiny_llama, device="cuda:0"))
        assert bench.stepper._pipelines["tiny"].backend == "triton"
        found = submit(bench, tiny_llama)
        waits = []
        while bench.stepper.has_work:
            device.take_waits()
            bench.step()
            waits.append(device.take_waits())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
    assert {tuple(step) for step in waits} == {("transfer.py:delivered:copy",)}, waits


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_choice_that_is_explained_leaves_the_others_to_the_kernels(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [{"rule": "temperature", "value": 0.8}, {"rule": "top_k", "k": 20}]
    recipe = Recipe.parse({"scaffold": {"kind": "raw"}, "rules": rules})
    plan = compile_recipe(recipe, tiny_llama.vocabulary, context_tokens=256)

    def ask(bench: Bench) -> list[Answer]:
        return [
            bench.submit(plan, (50, 61, 72), seed=1, max_tokens=3),
            bench.submit(
                plan, (50, 61, 72), seed=2, max_tokens=3, explain=Counterfactuals.of(plan)
            ),
        ]

    on_cpu = engine(tiny_llama)
    wanted = ask(on_cpu)
    on_cpu.run()
    drawn: list[int] = []
    fused = FusedDraw.draw

    def counted(
        self: FusedDraw, rows: Any, begins: Any, slots: Any, *args: Any, **more: Any
    ) -> Any:
        drawn.append(len(slots))
        return fused(self, rows, begins, slots, *args, **more)

    monkeypatch.setattr(FusedDraw, "draw", counted)
    with simulated_device():
        for tensor in (*tiny_llama.model.parameters(), *tiny_llama.model.buffers()):
            put(tensor)
        bench = engine(replace(tiny_llama, device="cuda:0"))
        found = ask(bench)
        bench.run()
    assert drawn == [1, 1, 1]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
        # Attention is computed in another way there, so on some processors the last bits differ.
        for (where, one), (there, other) in zip(explained(ours), explained(theirs), strict=True):
            assert where == there
            assert one == (pytest.approx(other, abs=1e-6) if isinstance(other, float) else other)


def explained(answer: Answer) -> list[tuple[str, Any]]:
    """Return every number and name of an answer's explanations, with where it stands."""
    found: list[tuple[str, Any]] = []

    def take(where: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                take(f"{where}.{key}", part)
        elif isinstance(value, (list, tuple)):
            for place, part in enumerate(value):
                take(f"{where}[{place}]", part)
        else:
            found.append((where, value))

    for place, event in enumerate(answer.events):
        if isinstance(event, TokensEvent):
            given = event.explanations or ()
            take(str(place), [one and asdict(one) for one in given])
    return found
