"""One prompt through several recipes under the same noise, and where their outputs part."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Any, Final

from bosal_decoding.errors import DecodingError
from bosal_decoding.explanation import Explanation
from bosal_server.core import GenerationCore
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import ServerError
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


class DivergenceCause(StrEnum):
    """Why two outputs part; the wire's names."""

    # On the very same row the recipes draw different tokens.
    RULE = "RULE"
    # The recipes read different prompts.
    PROMPT = "PROMPT"
    # The recipes agree on one row: the model's rows differed.
    NUMERICS = "NUMERICS"
    # One output ended where the other went on.
    ENDING = "ENDING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a recipe's output first differs from the first recipe's; without position: nowhere."""

    recipe: int
    position: int | None = None
    # Of the first recipe and of this one; None where the output had ended.
    first_token: int | None = None
    token: int | None = None
    cause: DivergenceCause | None = None
    # The rules of either recipe that alone decided it.
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeEvent:
    """What one of the compared recipes did."""

    recipe: int
    event: CoreEvent


async def compare(
    core: GenerationCore, command: CompareCommand
) -> AsyncGenerator[RecipeEvent | Divergence, None]:
    """Yield Started of every recipe, then their tokens and ends, and each divergence once known.

    An error of one is the error of all. Closing the iterator early cancels everything.
    """
    if not 2 <= len(command.recipes) <= MAX_RECIPES:
        raise OutOfRange("recipes", len(command.recipes), low=2, high=MAX_RECIPES)
    shared = command.shared
    if shared.seed is None:
        shared = replace(shared, seed=secrets.randbits(32))
    all_started: list[Started] = []
    for place, one in enumerate(command.recipes):
        with _located(place):
            all_started.append(await core.accept(_of_recipe(shared, one, place)))
    all_started = _held_together(all_started)
    for place, started in enumerate(all_started):
        yield RecipeEvent(place, started)
    divergences = Divergences(all_started)
    runs = [core.run(started, shared) for started in all_started]
    async with aclosing(_merged(runs)) as events:
        async for recipe, event in events:
            if isinstance(event, Started):
                continue
            yield RecipeEvent(recipe, event if command.shared.explain else unexplained(event))
            for divergence in divergences.add(recipe, event):
                yield divergence


class Divergences:
    """Follows the outputs of compared recipes and finds where each leaves the first."""

    def __init__(self, started: Sequence[Started]) -> None:
        self._outputs: list[list[int]] = [[] for _ in started]
        self._explanations: list[list[Explanation | None]] = [[] for _ in started]
        self._has_ended = [False] * len(started)
        self._num_equal = [0] * len(started)
        self._open = list(range(1, len(started)))
        self._counterfactuals = [one.explain for one in started]
        self._holders = [_holder(started[0], one) for one in started]

    def add(self, recipe: int, event: TokensEvent | FinishedEvent) -> list[Divergence]:
        """Take a recipe's next event; return what became known by it."""
        if isinstance(event, TokensEvent):
            self._outputs[recipe] += event.token_ids
            self._explanations[recipe] += event.explanations or [None] * len(event.token_ids)
        else:
            self._has_ended[recipe] = True
        found = []
        for other in self._open if recipe == 0 else [recipe] * (recipe in self._open):
            divergence = self._find(other)
            if divergence is not None:
                found.append(divergence)
        known = [divergence.recipe for divergence in found]
        self._open = [other for other in self._open if other not in known]
        return found

    def _find(self, recipe: int) -> Divergence | None:
        first, other = self._outputs[0], self._outputs[recipe]
        both = min(len(first), len(other))
        for position in range(self._num_equal[recipe], both):
            if first[position] != other[position]:
                return self._explained(recipe, position)
        self._num_equal[recipe] = both
        if self._has_ended[0] and self._has_ended[recipe] and len(first) == len(other):
            return Divergence(recipe=recipe)
        if (self._has_ended[0] and len(other) > both) or (
            self._has_ended[recipe] and len(first) > both
        ):
            return Divergence(
                recipe=recipe,
                position=both,
                first_token=first[both] if len(first) > both else None,
                token=other[both] if len(other) > both else None,
                cause=DivergenceCause.ENDING,
            )
        return None

    def _explained(self, recipe: int, position: int) -> Divergence:
        cause, rules = self._cause(recipe, position)
        return Divergence(
            recipe=recipe,
            position=position,
            first_token=self._outputs[0][position],
            token=self._outputs[recipe][position],
            cause=cause,
            rules=rules,
        )

    def _cause(self, recipe: int, position: int) -> tuple[DivergenceCause, tuple[str, ...]]:
        """Say what parted two recipes that were equal so far."""
        if self._holders[recipe] is _Holder.NONE:
            return DivergenceCause.PROMPT, ()
        if self._holders[recipe] is _Holder.FIRST:
            holder, guest = 0, recipe
            place = self._holders[1:recipe].count(_Holder.FIRST)
        else:
            holder, guest, place = recipe, 0, 0
        counterfactuals = self._counterfactuals[holder]
        ours = self._explanations[holder][position]
        theirs = self._explanations[guest][position]
        if self._holders[recipe] is _Holder.NEITHER or ours is None or theirs is None:
            # Streams of its own, or a token that was forced: a rule's doing.
            return DivergenceCause.RULE, ()
        assert counterfactuals is not None
        other, draw = counterfactuals.others[place], ours.others[place]
        own = {counterfactuals.without[index].rule for index in other.own}
        their_own = {without.rule for without in other.without}
        # A ban at this position is known only to the choice that ran into it.
        rules = dict.fromkeys(
            (
                *draw.rules,
                *(
                    effect.rule
                    for effect in ours.effects
                    if effect.rule in own and effect.token_without == theirs.token
                ),
                *(
                    effect.rule
                    for effect in theirs.effects
                    if effect.rule in their_own and effect.token_without == ours.token
                ),
            )
        )
        if rules or draw.token != ours.token:
            return DivergenceCause.RULE, tuple(rules)
        return DivergenceCause.NUMERICS, ()


class _Holder(Enum):
    """Whose rows a recipe and the first one are both drawn from."""

    FIRST = auto()
    OTHER = auto()
    # The prompt is the same, but each reads a stream that the other lacks.
    NEITHER = auto()
    # The prompts differ.
    NONE = auto()


def _holder(first: Started, other: Started) -> _Holder:
    mine, theirs = first.prompts[0], other.prompts[0]
    if (mine.token_ids, mine.opening) != (theirs.token_ids, theirs.opening):
        return _Holder.NONE
    assert first.explain is not None
    assert other.explain is not None
    if first.explain.can_stand_for(other.explain):
        return _Holder.FIRST
    return _Holder.OTHER if other.explain.can_stand_for(first.explain) else _Holder.NEITHER


def _held_together(started: Sequence[Started]) -> list[Started]:
    """Let each recipe and the first be drawn from the same rows, where one has all they read."""
    first = started[0]
    assert first.explain is not None
    guests = []
    found = []
    for one in started[1:]:
        assert one.explain is not None
        holder = _holder(first, one)
        if holder is _Holder.FIRST:
            guests.append(one.explain)
        elif holder is _Holder.OTHER:
            one = replace(one, explain=one.explain.against([first.explain]))
        found.append(one)
    return [replace(first, explain=first.explain.against(guests)), *found]


def _of_recipe(shared: GenerateCommand, one: ComparedRecipe, place: int) -> GenerateCommand:
    """One recipe's part of a comparison; draws are explained, to tell why outputs part."""
    return replace(
        shared,
        prompt=replace(shared.prompt, recipe=one.recipe),
        overrides=one.overrides,
        explain=True,
        request_id=f"{shared.request_id}.{place}" if shared.request_id else "",
    )


@contextmanager
def _located(place: int) -> Iterator[None]:
    """Say which recipe, or which field that all share, an error is about."""
    try:
        yield
    except (DecodingError, ServerError) as error:
        if error.field:
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
                raise item
            if item is None:
                num_left -= 1
            else:
                yield place, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
