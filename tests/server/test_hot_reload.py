"""The folder changes while requests run: each keeps what it began with, to its last token."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest
from tests.live_server import eventually
from tests.server.test_core import running

from bosal_server.core import GenerationCore
from bosal_server.engine.request import TokensEvent
from bosal_server.engine.torch_runner import TorchRunner
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.model import LoadedModel
from bosal_server.recipe_store import RecipeStore
from bosal_server.recipe_watch import RecipeWatch
from bosal_server.started import Started

LENGTH = 8


class Asked:
    """One request in progress."""

    def __init__(self, core: GenerationCore, recipe: str) -> None:
        prompt = PromptCommand(recipe=recipe, instruction="The cat sat")
        self._events = core.generate(GenerateCommand(prompt=prompt, max_tokens=LENGTH))
        self.version = ""
        self.tokens: list[int] = []

    async def read(self, count: int) -> None:
        """Read on until so many tokens are there."""
        while len(self.tokens) < count:
            event = await anext(self._events)
            if isinstance(event, Started):
                self.version = event.plan.version
            elif isinstance(event, TokensEvent):
                self.tokens += event.token_ids

    async def finish(self) -> None:
        async for event in self._events:
            if isinstance(event, TokensEvent):
                self.tokens += event.token_ids


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the models take so many more steps; they take none by themselves."""
    permits = Semaphore(0)
    forward = TorchRunner.forward

    def held(self: TorchRunner, plan: Any) -> Any:
        permits.acquire()
        return forward(self, plan)

    monkeypatch.setattr(TorchRunner, "forward", held)
    yield permits.release
    permits.release(1000)


def write(folder: Path, name: str, token: int) -> None:
    """A recipe whose answers are one token, over and over."""
    (folder / f"{name}.yaml").write_text(f"rules: [{{rule: logit_bias, ids: {{{token}: 1000}}}}]\n")


@contextmanager
def watching(store: RecipeStore) -> Iterator[tuple[RecipeWatch, list[bool]]]:
    outcomes: list[bool] = []
    with RecipeWatch(store, outcomes.append, period=3600) as watch:
        yield watch, outcomes


def test_a_request_keeps_its_version_when_the_folder_changes_between_two_of_its_tokens(
    tmp_path: Path, tiny_llama: LoadedModel, step: Callable[[int], None]
) -> None:
    async def check() -> None:
        write(tmp_path, "one", 100)
        store = RecipeStore.load(tmp_path)
        async with running(tiny_llama, recipes=store) as (core, _):
            with watching(store) as (watch, outcomes):
                old = Asked(core, "one")
                step(3)
                await old.read(2)
                assert len(old.tokens) < LENGTH
                write(tmp_path, "one", 101)
                watch.wake()
                assert await asyncio.to_thread(eventually, lambda: outcomes == [True])
                new = Asked(core, "one")
                step(100)
                await new.read(1)
                await old.finish()
                await new.finish()
                # The old version is gone from the folder, and with it from new requests.
                assert store.get("one").version == new.version != old.version
        assert old.tokens == [100] * LENGTH
        assert new.tokens == [101] * LENGTH

    asyncio.run(check())


def test_a_removed_recipe_serves_those_who_have_it(
    tmp_path: Path, tiny_llama: LoadedModel, step: Callable[[int], None]
) -> None:
    async def check() -> None:
        write(tmp_path, "one", 100)
        store = RecipeStore.load(tmp_path)
        async with running(tiny_llama, recipes=store) as (core, _):
            with watching(store) as (watch, outcomes):
                old = Asked(core, "one")
                step(2)
                await old.read(1)
                (tmp_path / "one.yaml").unlink()
                watch.wake()
                assert await asyncio.to_thread(eventually, lambda: outcomes == [True])
                assert "one" not in store
                step(100)
                await old.finish()
        assert old.tokens == [100] * LENGTH

    asyncio.run(check())


def test_a_wrong_file_changes_nothing_for_old_and_new_requests(
    tmp_path: Path,
    tiny_llama: LoadedModel,
    step: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check() -> None:
        write(tmp_path, "one", 100)
        write(tmp_path, "two", 102)
        store = RecipeStore.load(tmp_path)
        async with running(tiny_llama, recipes=store) as (core, _):
            with watching(store) as (watch, outcomes):
                before = [recipe.version for recipe in store]
                old = Asked(core, "one")
                step(2)
                await old.read(1)
                # Right files beside a wrong one, read before it and after it.
                write(tmp_path, "one", 101)
                write(tmp_path, "two", 103)
                (tmp_path / "three.yaml").write_text("rules: [{rule: top_q, p: 1}]\n")
                watch.wake()
                assert await asyncio.to_thread(eventually, lambda: outcomes == [False])
                assert [recipe.version for recipe in store] == before
                new = Asked(core, "one")
                step(100)
                await new.read(1)
                await old.finish()
                await new.finish()
                assert new.version == old.version
                assert old.tokens == new.tokens == [100] * LENGTH
                (tmp_path / "three.yaml").unlink()
                watch.wake()
                assert await asyncio.to_thread(eventually, lambda: outcomes == [False, True])
                after = Asked(core, "two")
                await after.read(1)
                await after.finish()
        assert after.tokens == [103] * LENGTH

    with caplog.at_level(logging.ERROR):
        asyncio.run(check())
    (refused,) = (record.message for record in caplog.records if "folder" in record.message)
    assert "three.yaml" in refused
    assert "rules[0].rule" in refused
    assert "top_p" in refused  # the nearest known name
