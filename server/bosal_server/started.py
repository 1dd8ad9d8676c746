"""An accepted request, and what is told about it from then on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bosal_decoding.constraints.program import Program
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.held_draws import Held
from bosal_server.served_models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A request that was accepted, with everything that makes it repeatable."""

    request_id: str
    model: ServedModel
    # `inline` for a recipe that came with the request.
    recipe_name: str
    # Of the recipe before the request's overrides, and these as they came.
    base_version: str
    overrides: Sequence[Mapping[str, Any]]
    plan: Plan
    seed: int
    max_tokens: int
    num_choices: int
    prompts: tuple[Prompt, ...]
    # Tokens to score instead of generating any.
    continuation: tuple[int, ...]
    # On the clock of time.monotonic.
    arrival: float
    # What draws are held against; None: they are not explained, or for the metrics alone.
    explain: Counterfactuals | None
    # The plan's constraint, compiled.
    program: Program | None = None
    # None: no experiment was named.
    assignment: Assignment | None = None
    # Tokens of what was said, by itself; counted of an exposure alone.
    instruction_tokens: int = 0
    # The variants that its draws are held against.
    held: tuple[Held, ...] = ()

    @property
    def variant_label(self) -> str:
        """What metrics call the variant; "": the request is no exposure."""
        assignment = self.assignment
        return assignment.label if assignment is not None and assignment.is_recorded else ""


CoreEvent = Started | TokensEvent | FinishedEvent


def unexplained(event: CoreEvent) -> CoreEvent:
    """Take away what was explained for the server alone."""
    if isinstance(event, Started):
        return event
    if isinstance(event, TokensEvent):
        return event if event.explanations is None else event._replace(explanations=None)
    if all(ending.explanation is None for ending in event.endings):
        return event
    endings = tuple(replace(ending, explanation=None) for ending in event.endings)
    return replace(event, endings=endings)
