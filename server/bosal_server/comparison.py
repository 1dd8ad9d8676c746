"""One prompt through several recipes under the same noise, and where their outputs part."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from bosal_decoding.errors import DecodingError
from bosal_server import call
from bosal_server.core import GenerationCore
from bosal_server.divergence import Divergence, Divergences, held_together
from bosal_server.errors import ExplanationTooLarge, ServerError, check_shadows
from bosal_server.generate_command import GenerateCommand
from bosal_server.request_errors import OutOfRange
from bosal_server.started import CoreEvent, Started, unexplained

MAX_RECIPES: Final = 8
# Events that wait for a reader; tokens that come later join those of their recipe.
_MAX_QUEUED: Final = 16
# Fields of a command that each recipe brings along.
_OF_RECIPE: Final = ("recipe", "inline_recipe", "overrides")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRecipe:
    """A recipe of a comparison: a name, `name@version`, a document or "", and its overrides."""

    recipe: str | Mapping[str, Any] = ""
    overrides: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareCommand:
    """What to compare: everything but the recipe, and the recipes."""

    shared: GenerateCommand
    recipes: Sequence[ComparedRecipe]


@dataclass(frozen=True, slots=True)
class RecipeEvent:
    """What one of the compared recipes did."""

    recipe: int
    event: CoreEvent


def check_recipes(count: int) -> None:
    """Refuse too few or too many to compare.

    Raises:
        OutOfRange: it says how many there may be.
    """
    if not 2 <= count <= MAX_RECIPES:
        raise OutOfRange("recipes", count, low=2, high=MAX_RECIPES)


async def compare(
    core: GenerationCore, command: CompareCommand
) -> AsyncGenerator[RecipeEvent | Divergence, None]:
    """Yield Started of every recipe, then their tokens and ends, and each divergence once known.

    An error of one is the error of all. Closing the iterator early cancels everything.
    """
    check_recipes(len(command.recipes))
    shared = command.shared
    if shared.seed is None:
        shared = replace(shared, seed=secrets.randbits(32))
    all_started: list[Started] = []
    for place, one in enumerate(command.recipes):
        with _located(place):
            started = await core.accept(_of_recipe(shared, one))
        # Longer than an id that a request may have.
        all_started.append(replace(started, request_id=f"{started.request_id}.{place}"))
    all_started = held_together(all_started)
    for place, started in enumerate(all_started):
        assert started.explain is not None
        with _located(place):
            check_shadows(started.explain.num_plans, started.model.max_shadows)
    divergences = Divergences(all_started)
    runs = [core.run(started, shared) for started in all_started]
    num_inside = 0
    async with aclosing(_merged(runs)) as events:
        async for recipe, event in events:
            # Each says so, or is turned away, before any token comes: who has been told nothing
            # yet may come again.
            if isinstance(event, Started):
                num_inside += 1
                if num_inside == len(runs):
                    for place, started in enumerate(all_started):
                        yield RecipeEvent(place, started)
                continue
            yield RecipeEvent(recipe, event if command.shared.explain else unexplained(event))
            for divergence in divergences.add(recipe, event):
                yield divergence


def _of_recipe(shared: GenerateCommand, one: ComparedRecipe) -> GenerateCommand:
    """One recipe's part of a comparison; draws are explained, to tell why outputs part."""
    return replace(
        shared,
        prompt=replace(shared.prompt, recipe=one.recipe),
        overrides=one.overrides,
        explain=True,
        request_id=shared.request_id or call.request_id(),
    )


@contextmanager
def _located(place: int) -> Iterator[None]:
    """Say which recipe, or which field that all share, an error is about."""
    try:
        yield
    except (DecodingError, ServerError) as error:
        if isinstance(error, ExplanationTooLarge):
            # It is the comparison that needs the draws explained.
            error.field = f"recipes[{place}]"
        elif error.field:
            is_own = error.field.split(".")[0].split("[")[0] in _OF_RECIPE
            prefix = f"recipes[{place}]" if is_own else "spec"
            error.field = f"{prefix}.{error.field}"
        raise


async def _merged(
    runs: Sequence[AsyncGenerator[CoreEvent, None]],
) -> AsyncGenerator[tuple[int, CoreEvent], None]:
    """Yield the events of all runs as they come; the first error ends them all."""
    queue: asyncio.Queue[tuple[int, CoreEvent | Exception | None]] = asyncio.Queue(_MAX_QUEUED)

    async def pump(place: int, run: AsyncGenerator[CoreEvent, None]) -> None:
        try:
            async with aclosing(run) as events:
                async for event in events:
                    await queue.put((place, event))
        except Exception as error:
            await queue.put((place, error))
        else:
            await queue.put((place, None))

    tasks = [asyncio.create_task(pump(place, run)) for place, run in enumerate(runs)]
    try:
        num_left = len(tasks)
        while num_left:
            place, item = await queue.get()
            if isinstance(item, Exception):
                with _located(place):
                    raise item
            if item is None:
                num_left -= 1
            else:
                yield place, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
