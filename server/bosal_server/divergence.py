"""Where outputs under the same noise part, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from bosal_decoding.explanation import Explanation
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.started import Started

__all__ = ["Divergence", "DivergenceCause", "Divergences", "held_together"]


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


class Divergences:
    """Follows the outputs of recipes held together and finds where each leaves the first."""

    def __init__(self, started: Sequence[Started], *, is_first_explained: bool = True) -> None:
        self._outputs: list[list[int]] = [[] for _ in started]
        self._explanations: list[list[Explanation | None]] = [[] for _ in started]
        self._has_ended = [False] * len(started)
        self._num_equal = [0] * len(started)
        self._open = list(range(1, len(started)))
        self._counterfactuals = [one.explain for one in started]
        self._is_explained = [is_first_explained, *([True] * (len(started) - 1))]
        self._holders = [_holder(started[0], one, is_first_explained) for one in started]

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
        is_forced = theirs is None and self._is_explained[guest]
        if self._holders[recipe] is _Holder.NEITHER or ours is None or is_forced:
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
                    if effect.rule in own and effect.token_without == self._outputs[guest][position]
                ),
                *(
                    effect.rule
                    for effect in (theirs.effects if theirs is not None else ())
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


def _holder(first: Started, other: Started, is_first_explained: bool) -> _Holder:
    mine, theirs = first.prompts[0], other.prompts[0]
    if (mine.token_ids, mine.opening) != (theirs.token_ids, theirs.opening):
        return _Holder.NONE
    assert first.explain is not None
    assert other.explain is not None
    if is_first_explained and first.explain.can_stand_for(other.explain):
        return _Holder.FIRST
    return _Holder.OTHER if other.explain.can_stand_for(first.explain) else _Holder.NEITHER


def held_together(started: Sequence[Started], *, is_first_explained: bool = True) -> list[Started]:
    """Let each recipe and the first be drawn from the same rows, where one has all they read.

    All are explained, but perhaps the first: then only the others' rows can tell why they part.
    """
    first = started[0]
    assert first.explain is not None
    guests = []
    found = []
    for one in started[1:]:
        assert one.explain is not None
        holder = _holder(first, one, is_first_explained)
        if holder is _Holder.FIRST:
            guests.append(one.explain)
        elif holder is _Holder.OTHER:
            one = replace(one, explain=one.explain.against([first.explain]))
        found.append(one)
    return [replace(first, explain=first.explain.against(guests)), *found]
