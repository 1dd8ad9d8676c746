"""What calls about experiments return; the names are the wire's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bosal_client.experiment_effects import DivergenceReport, DoseReport, Effect, ShadowReport

__all__ = [
    "ArmReport",
    "ArmValue",
    "Assignment",
    "AuditEvent",
    "Distribution",
    "EffectPoint",
    "Experiment",
    "Metric",
    "MetricReport",
    "OutcomeResult",
    "Phase",
    "Plan",
    "Removed",
    "Report",
    "ShareCheck",
    "Variant",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a unit is served and why; `reason` is the wire's name, in small letters."""

    experiment: str
    phase: int
    variant: str
    recipe_version: str
    reason: str
    # For `record`; "": no exposure.
    exposure_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    key: str
    # "": it came with the experiment.
    recipe: str
    recipe_version: str
    weight_ppm: int
    is_control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    kind: str
    outcome: str
    denominator: str
    level: float
    threshold: float
    direction: str
    role: str
    margin: float
    is_margin_relative: bool
    covariate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    number: int
    weights_ppm: Mapping[str, int]
    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as it is at its etag."""

    name: str
    description: str
    unit_kind: str
    variants: tuple[Variant, ...]
    # Served to nobody: re-runs of a share of the control's requests.
    shadows: tuple[Variant, ...]
    shadow_share_ppm: int
    compare_draws: bool
    metrics: tuple[Metric, ...]
    alpha: float
    planned_units: int
    min_units: int
    method: str
    coverage_ppm: int
    state: str
    etag: str
    phases: tuple[Phase, ...]
    promoted_variant: str
    state_reason: str
    # They pause the current phase no more.
    acknowledged_guardrails: tuple[str, ...]
    create_time: datetime | None

    def weights(self, phase: int = 0) -> dict[str, int]:
        """Return the variants' weights in millionths as a phase has them; 0 is the latest."""
        # Until a phase begins, those of the document.
        weights = {one.key: one.weight_ppm for one in self.variants}
        for one in self.phases:
            if phase in (0, one.number):
                weights.update(one.weights_ppm)
        return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    variant: str
    units: int
    requests: int
    completed: int
    failed: int
    share: float
    expected_share: float
    mixed_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCheck:
    p_value: float
    chi_square_p: float
    is_alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmValue:
    variant: str
    count: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    metric: Metric
    arms: tuple[ArmValue, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPoint:
    """The primary metric's effect as it was."""

    at: datetime | None
    units: int
    variant: str
    difference: float
    low: float
    high: float
    share_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """An outcome over one variant's requests: 101 values, smallest to largest."""

    outcome: str
    variant: str
    count: int
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of one phase, and what may be concluded."""

    experiment: Experiment
    phase: int
    as_of: datetime | None
    arms: tuple[ArmReport, ...]
    shares: ShareCheck
    metrics: tuple[MetricReport, ...]
    conclusion: str
    warnings: tuple[str, ...]
    orphans: int
    skewed_outcomes: int
    history: tuple[EffectPoint, ...]
    distributions: tuple[Distribution, ...]
    divergences: tuple[DivergenceReport, ...]
    shadows: tuple[ShadowReport, ...]
    doses: tuple[DoseReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeResult:
    """What became of an outcome: recorded, duplicate, orphan or rejected."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many units an effect needs to be shown, two equal variants together."""

    units: int
    effect: float
    deviation: float
    alpha: float
    power: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    experiment: str
    at: datetime | None
    actor: str
    action: str
    reason: str
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Rows that a unit's removal took."""

    exposures: int
    outcomes: int
