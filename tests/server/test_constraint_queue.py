"""Who waits at the desk of constraints, how long, and what is left when he goes."""

import asyncio
from threading import Event

import pytest

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import CompileQueueFull
from bosal_decoding.constraints.program import Program
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_server import constraint_desk
from bosal_server.constraint_desk import ConstraintDesk, SchemaJudge
from bosal_server.engine.request import (
    ChoiceEnding,
    FinishReason,
)
from bosal_server.model import LoadedModel


def test_a_request_waits_for_a_place_in_the_queue(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = ConstraintCompiler(max_waiting=1)
    desk = ConstraintDesk(compiler)
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    def plan(pattern: str) -> Plan:
        recipe = Recipe.parse({"constraint": {"regex": pattern}})
        return compile_recipe(recipe, tiny_llama.vocabulary, context_tokens=100)

    async def two() -> list[Program | None]:
        first = asyncio.create_task(desk.program(plan("a+"), "constraint"))
        second = asyncio.create_task(desk.program(plan("b+"), "constraint"))
        await asyncio.sleep(0.2)
        assert not first.done()
        assert not second.done()
        gate.set()
        return [await first, await second]

    async def refused() -> None:
        monkeypatch.setattr(constraint_desk, "_PLACE_SECONDS", 0.0)
        waiting = asyncio.create_task(desk.program(plan("c+"), "constraint"))
        await asyncio.sleep(0)
        with pytest.raises(CompileQueueFull):
            await desk.program(plan("d+"), "constraint")
        gate.set()
        await waiting

    try:
        for one in (two, refused):
            begun.clear()
            gate.clear()
            compiler._quick.submit(hold)
            assert begun.wait(10)
            found = asyncio.run(one())
            assert found is None or all(program is not None for program in found)
    finally:
        gate.set()
        desk.close()


def test_a_request_that_is_cancelled_gives_its_place_back(tiny_llama: LoadedModel) -> None:
    compiler = ConstraintCompiler(max_waiting=1)
    desk = ConstraintDesk(compiler)
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    def plan(pattern: str) -> Plan:
        recipe = Recipe.parse({"constraint": {"regex": pattern}})
        return compile_recipe(recipe, tiny_llama.vocabulary, context_tokens=100)

    async def one_after_the_other() -> Program | None:
        first = asyncio.create_task(desk.program(plan("a+"), "constraint"))
        await asyncio.sleep(0)
        assert compiler._pending
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not compiler._pending
        second = asyncio.create_task(desk.program(plan("b+"), "constraint"))
        await asyncio.sleep(0)
        gate.set()
        return await second

    try:
        compiler._quick.submit(hold)
        assert begun.wait(10)
        assert asyncio.run(one_after_the_other()) is not None
    finally:
        gate.set()
        desk.close()


def test_a_whole_answer_waits_only_so_long_to_be_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constraint_desk, "_JUDGE_SECONDS", 0.0)
    compiler = ConstraintCompiler()
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    ending = ChoiceEnding(0, FinishReason.CONSTRAINT_COMPLETE, "", 1, ())
    judge = SchemaJudge(compiler, '{"type":"null"}', "")
    try:
        compiler._validating.submit(hold)
        assert begun.wait(10)
        assert asyncio.run(judge._judged(ending)).schema_valid is None
        assert not compiler._validating._queues  # nobody waits for it
    finally:
        gate.set()
        compiler.close()
