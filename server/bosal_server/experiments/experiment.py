"""Experiments as values: what is compared, on whom, and in which state it is."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from bosal_decoding.recipe import INLINE, Recipe
from bosal_server.experiments.assignment import PPM
from bosal_server.experiments.metric import DOSES, FAILED, Metric, MetricKind, MetricRole

__all__ = ["Experiment", "Namespace", "Phase", "State", "Variant"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MIN_UNITS: Final = 50


class State(StrEnum):
    """Where an experiment is in its life."""

    DRAFT = "DRAFT"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    PROMOTED = "PROMOTED"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Value):
    """A recipe under test, in the version it had when the experiment was made."""

    key: str
    # `inline` for a recipe that came with the experiment.
    recipe_name: str
    recipe_version: str
    document: Mapping[str, Any]
    weight_ppm: int = 0
    is_control: bool = False

    @property
    def is_named(self) -> bool:
        """Whether its recipe is one of the server's, not one that came with the experiment."""
        return self.recipe_name != INLINE

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.parse(self.document)


class Namespace(_Value):
    """A range of a namespace's places."""

    name: str
    low_ppm: int
    high_ppm: int


class Phase(_Value):
    """A stretch of an experiment with one set of weights; times are seconds since 1970."""

    number: int
    # In the order of the experiment's variants.
    weights_ppm: tuple[int, ...]
    start: float | None = None
    end: float | None = None


class Experiment(_Value):
    """One experiment as it is at a revision."""

    name: str
    description: str = ""
    unit_kind: str = "unit"
    variants: tuple[Variant, ...]
    metrics: tuple[Metric, ...]
    namespace: Namespace | None = None
    alpha: float = 0.05
    planned_units: int = 5000
    min_units: int = MIN_UNITS
    is_fixed_horizon: bool = False
    coverage_ppm: int = PPM
    retention: timedelta = timedelta(days=90)
    text_retention: timedelta | None = None
    max_failures_per_minute: int = 0
    # Re-runs of the control's requests under these, served to nobody.
    shadows: tuple[Variant, ...] = ()
    shadow_share_ppm: int = 0
    # Whether every draw is held against the other variants'.
    compares_draws: bool = False

    state: State = State.DRAFT
    # Grows with every change.
    revision: int = 1
    phases: tuple[Phase, ...] = ()
    promoted_variant: str = ""
    state_reason: str = ""
    # Guardrails that pause the current phase no more: it was started in spite of them.
    acknowledged_guardrails: tuple[str, ...] = ()
    created: float = 0.0

    @property
    def etag(self) -> str:
        return f"{self.revision:x}"

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self.phases[-1]

    @cached_property
    def control(self) -> Variant:
        return next(variant for variant in self.variants if variant.is_control)

    @property
    def sides(self) -> tuple[Variant, ...]:
        """All that a request may be held against: the variants, then the shadows."""
        return (*self.variants, *self.shadows)

    @cached_property
    def by_key(self) -> Mapping[str, Variant]:
        return {variant.key: variant for variant in self.variants}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where variants are among the arms, by key."""
        return {variant.key: index for index, variant in enumerate(self.variants)}

    @cached_property
    def primary(self) -> Metric:
        return next(metric for metric in self.metrics if metric.role is MetricRole.PRIMARY)

    @cached_property
    def guardrails(self) -> tuple[str, ...]:
        """The names of the metrics that pause the experiment."""
        return tuple(one.name for one in self.metrics if one.role is MetricRole.GUARDRAIL)

    @cached_property
    def outcomes(self) -> Mapping[str, tuple[Metric, ...]]:
        """The metrics each recorded outcome goes into."""
        found: dict[str, tuple[Metric, ...]] = {}
        for metric in self.metrics:
            for outcome in metric.outcomes:
                found[outcome] = (*found.get(outcome, ()), metric)
        return found

    @cached_property
    def tallies(self) -> Mapping[str, Sequence[tuple[str, float | None]]]:
        """What a unit keeps of each outcome: names, and the threshold a value is held against."""
        found: dict[str, list[tuple[str, float | None]]] = {FAILED: [(FAILED, None)]}
        for outcome, metrics in self.outcomes.items():
            kept = found.setdefault(outcome, [])
            for metric in metrics:
                if metric.kind is MetricKind.QUANTILE:
                    continue
                is_above = metric.kind is MetricKind.ABOVE
                name = metric.tally if is_above else outcome
                if all(name != known for known, _ in kept):
                    kept.append((name, metric.threshold if is_above else None))
        return found

    @property
    def measures_dose(self) -> bool:
        """Whether every token has to be explained, for a metric or for the report."""
        return self.compares_draws or not DOSES.isdisjoint(self.outcomes)

    @property
    def is_over(self) -> bool:
        return self.state in (State.STOPPED, State.PROMOTED)

    def serves(self, recipe: str) -> bool:
        """Say whether requests may still be served this recipe because of the experiment."""
        return self.state is not State.STOPPED and any(
            variant.recipe_name == recipe for variant in self.sides
        )
