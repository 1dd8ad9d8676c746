"""Which variants of its experiment a request is held against, and on which rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RuleStage
from bosal_decoding.streams import StreamModel
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.held_draws import Held

__all__ = ["Opposition", "oppose"]

# Stages at which a rule can differ without making equal draws end differently.
_DRAWN = frozenset({RuleStage.COMBINE, RuleStage.SHAPE, RuleStage.MASK, RuleStage.TRUNCATE})


@dataclass(frozen=True, slots=True)
class Opposition:
    """A request's counterfactuals with the other variants' draws added."""

    counterfactuals: Counterfactuals
    held: tuple[Held, ...]


def oppose(
    own: Plan,
    prompts: tuple[Prompt, ...],
    assignment: Assignment,
    compiled: Callable[[Recipe], tuple[Plan, tuple[Prompt, ...]]],
    models: tuple[StreamModel, ...],
    *,
    has_effects: bool,
) -> Opposition:
    """Hold a variant, or a shadow, against the control; the control against every variant.

    `compiled` gives another recipe's plan and prompts for the request; `models` are those that
    rules may name. `has_effects` asks every rule at every token, for a client.

    Raises:
        DecodingError: the request's recipe cannot do without one of its rules.
    """
    counterfactuals = Counterfactuals.of(own, models)
    experiment = assignment.experiment
    sides = experiment.sides
    if assignment.variant == experiment.control:
        others = [
            (index, variant)
            for index, variant in enumerate(experiment.variants)
            if not variant.is_control
        ]
    elif assignment.variant in sides:
        others = [(sides.index(assignment.variant), experiment.control)]
    else:
        others = []
    held: list[Held] = []
    guests: list[Counterfactuals] = []
    for index, other in others:
        guest = None
        try:
            plan, their_prompts = compiled(other.recipe)
            mine, theirs = prompts[0], their_prompts[0]
            if (mine.token_ids, mine.opening) == (theirs.token_ids, theirs.opening):
                guest = Counterfactuals.of(plan, models)
        except DecodingError:
            pass  # What the other would refuse, it draws nothing for.
        if guest is None or not counterfactuals.can_stand_for(guest):
            held.append(Held(variant=index, place=None, is_symmetric=False))
            continue
        is_symmetric = guest.can_stand_for(counterfactuals) and _ends_alike(
            counterfactuals.plan, guest.plan
        )
        held.append(Held(variant=index, place=len(guests), is_symmetric=is_symmetric))
        guests.append(guest)
    together = replace(counterfactuals.against(guests), has_effects=has_effects)
    return Opposition(together, tuple(held))


def _ends_alike(one: Plan, other: Plan) -> bool:
    """Say whether two plans that draw alike answer alike: no stop and no force differs."""
    mine, theirs = list(one.recipe.rules), list(other.recipe.rules)
    differing = [rule for rule in mine if rule not in theirs]
    differing += [rule for rule in theirs if rule not in mine]
    return (
        all(rule.stage in _DRAWN for rule in differing)
        and one.banned_strings == other.banned_strings
        and one.guide is None
        and other.guide is None
        and one.recipe.constraint == other.recipe.constraint
    )
