"""The quantities experiments are judged by: what is recorded of a unit, and what it adds up to."""

import math
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Final

from pydantic import BaseModel, ConfigDict

from bosal_server.experiments.errors import InvalidExperiment

__all__ = [
    "BUILT_IN",
    "Direction",
    "Metric",
    "MetricKind",
    "MetricRole",
    "Tally",
    "contribution",
]

# Outcomes the server records by itself when a request ends.
BUILT_IN: Final = {
    "ttft_ms": "milliseconds from arrival to the first token",
    "tpot_ms": "milliseconds between two tokens of a choice",
    "total_ms": "milliseconds from arrival to the end",
    "output_tokens": "tokens generated, all choices together",
    "stopped_itself": "share of choices that ended before their length or time did",
    "constraint_ok": "share of choices that satisfied the recipe's constraint",
    "shifted_share": "share of tokens that the base by itself ranks fourth or worse",
    "changed_share": "share of tokens that the control would not draw from the same row and noise",
    "kl_dose": "nats from the control's distribution on the same row to the variant's, a token",
    "failed": "1 for a request the server failed at, else 0",
}
# Tallied of every unit: how many of its requests ended, and how many of those failed.
FAILED: Final = "failed"
# Those that need every token explained, and of these those that need the control's draws too.
DOSES: Final = frozenset({"shifted_share", "changed_share", "kl_dose"})
AGAINST_CONTROL: Final = frozenset({"changed_share", "kl_dose"})
# Beyond it a square would drown the sums that all units share.
MAX_VALUE: Final = 1e15
# The denominator that counts a unit's requests.
REQUESTS: Final = "requests"
COVARIATE: Final = "instruction_tokens"

# What a unit's values of one outcome come to: their number and their sum.
Tally = tuple[float, float]


class MetricKind(StrEnum):
    """How a unit's values become one, and units' values an estimate."""

    MEAN = "MEAN"
    PROPORTION = "PROPORTION"
    RATIO = "RATIO"
    QUANTILE = "QUANTILE"
    ABOVE = "ABOVE"


class MetricRole(StrEnum):
    """What a metric is for."""

    PRIMARY = "PRIMARY"
    GUARDRAIL = "GUARDRAIL"
    SECONDARY = "SECONDARY"


class Direction(StrEnum):
    """What is better."""

    INCREASE = "INCREASE"
    DECREASE = "DECREASE"


class Metric(BaseModel):
    """A quantity variants are compared by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: MetricKind
    outcome: str
    denominator: str = ""
    level: float = 0.0
    threshold: float = 0.0
    direction: Direction
    role: MetricRole
    margin: float = 0.0
    is_margin_relative: bool = False
    covariate: str = ""

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.direction is Direction.INCREASE else -1

    @cached_property
    def tally(self) -> str:
        """Name of what is kept of a unit for this metric; of a ratio, for what is divided."""
        if self.kind is MetricKind.ABOVE:
            return f"{self.outcome}>{self.threshold!r}"
        return self.outcome

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Outcomes the metric is made of."""
        if self.kind is MetricKind.RATIO and self.denominator != REQUESTS:
            return (self.outcome, self.denominator)
        return (self.outcome,)

    def check_value(self, value: float, field: str) -> None:
        """Refuse a value this metric cannot be of."""
        if not math.isfinite(value):
            raise InvalidExperiment(field, f"must be a finite number, not {value}")
        if abs(value) > MAX_VALUE:
            raise InvalidExperiment(field, f"must be from -{MAX_VALUE:g} to {MAX_VALUE:g}")
        if self.kind is MetricKind.PROPORTION and value not in (0.0, 1.0):
            raise InvalidExperiment(
                field, f"metric '{self.name}' is a proportion: 0 or 1, not {value}"
            )


_NOTHING: Final = (0.0, 0.0)


def contribution(
    metric: Metric, tallies: Mapping[str, Tally], requests: int, covariate: float
) -> tuple[float, ...] | None:
    """Return what one unit adds to its arm's sums, as `Moments.numbers`; None: nothing."""
    count, total = tallies.get(metric.tally, _NOTHING)
    d = 1.0
    match metric.kind:
        case MetricKind.PROPORTION:
            y = float(total > 0)
        case MetricKind.RATIO:
            if metric.denominator == REQUESTS:
                d = float(requests)
            else:
                d = tallies.get(metric.denominator, _NOTHING)[1]
            if not d:
                return None
            y = total
        case MetricKind.QUANTILE:
            return None
        case _:
            if not count:
                return None
            y = total / count
    x = covariate
    return (1.0, y, y * y, d, d * d, y * d, x, x * x, x * y)
