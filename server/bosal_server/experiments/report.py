"""What is known about one phase of an experiment, as values; the wire's names."""

from collections.abc import Mapping
from dataclasses import dataclass

from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import Metric

__all__ = [
    "ArmReport",
    "ArmValue",
    "Distribution",
    "DivergenceExample",
    "DivergenceReport",
    "DoseReport",
    "EffectPoint",
    "EffectReport",
    "MetricReport",
    "PairedEffect",
    "Report",
    "ShadowReport",
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
class DivergenceExample:
    """The newest of the requests that parted: where, at which two tokens, and why."""

    position: int
    # b"": that text had ended.
    control_token: bytes
    token: bytes
    cause: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceReport:
    """Where a variant's text first leaves the control's under the same noise."""

    variant: str
    is_shadow: bool
    # Requests held against each other, those that are equal, and those that could not be.
    requests: int
    equal: int
    unknown: int
    # By cause, and by the rule that alone decided it.
    causes: Mapping[str, int]
    rules: Mapping[str, int]
    # Of those that part; None: none does.
    mean_position: float | None
    examples: tuple[DivergenceExample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedEffect:
    """What a program measured of a shadow, less the same of the control's answer."""

    outcome: str
    units: int
    control: float
    variant: float
    difference: float
    # None: too few units.
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    # How many times as many units two separate arms would need; None: not known.
    saving: float | None = None
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReport:
    """A shadow variant against the control, pair by pair."""

    variant: str
    pairs: int
    # Sampled requests that were not run again: live requests came first too often.
    given_up: int
    effects: tuple[PairedEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseReport:
    """How many requests a variant touches at all, and the primary metric among those units."""

    variant: str
    requests: int
    touched: int
    # Of the control and of the variant: units with at least one touched request.
    control_units: int
    units: int
    # Share of all units; None: there are none.
    touched_share: float | None
    # Among touched units; and spread over all, where those untouched have none by construction.
    effect: EffectReport
    diluted: EffectReport | None


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
    divergences: tuple[DivergenceReport, ...] = ()
    shadows: tuple[ShadowReport, ...] = ()
    doses: tuple[DoseReport, ...] = ()
    distributions: tuple[Distribution, ...] = ()
