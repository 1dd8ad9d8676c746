"""What is known about one phase of an experiment, as values; the wire's names."""

from dataclasses import dataclass

from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import Metric

__all__ = [
    "ArmReport",
    "ArmValue",
    "Distribution",
    "EffectPoint",
    "EffectReport",
    "MetricReport",
    "Report",
    "ShareCheck",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """How much of the traffic a variant had."""

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
    """Whether variants have the shares they were given."""

    p_value: float
    chi_square_p: float
    is_alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmValue:
    """A metric's value of one variant; None: not known."""

    variant: str
    count: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectReport:
    """A variant less the control; None: too little is known."""

    variant: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    p_value: float = 1.0
    adjusted_p: float = 1.0
    method: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """One metric of every variant."""

    metric: Metric
    arms: tuple[ArmValue, ...]
    effects: tuple[EffectReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPoint:
    """The primary metric's effect as it was."""

    at: float
    units: int
    variant: str
    difference: float
    low: float
    high: float
    share_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """An outcome over one variant's requests."""

    outcome: str
    variant: str
    count: int
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything about one phase."""

    experiment: Experiment
    phase: int
    as_of: float
    arms: tuple[ArmReport, ...]
    shares: ShareCheck
    metrics: tuple[MetricReport, ...]
    conclusion: str
    warnings: tuple[str, ...]
    orphans: int
    skewed_outcomes: int
    history: tuple[EffectPoint, ...]
    distributions: tuple[Distribution, ...] = ()
