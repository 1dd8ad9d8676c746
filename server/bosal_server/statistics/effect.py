"""The difference between two arms with its interval: planned in advance, or watched live."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from bosal_server.statistics import sequential
from bosal_server.statistics.intervals import Interval
from bosal_server.statistics.moments import Estimate, Moments

__all__ = ["Effect", "Method", "adjusted", "difference", "relative"]


# Arms are unequal from so many times as many units in one as in the other.
_UNEQUAL = 1.5


class Method(StrEnum):
    """When an experiment may be decided."""

    # At any look.
    SEQUENTIAL = "SEQUENTIAL"
    # Once, when the planned number of units is there.
    FIXED = "FIXED"


@dataclass(frozen=True, slots=True)
class Effect:
    """A variant less the control, or that as a share of the control."""

    value: float
    error: float
    control: Estimate
    variant: Estimate
    is_relative: bool = False

    @property
    def units(self) -> int:
        return self.control.units + self.variant.units

    @property
    def is_known(self) -> bool:
        """Whether there is anything to say: some variance, and a value."""
        return math.isfinite(self.value) and math.isfinite(self.error) and self.error > 0

    def interval(self, method: Method, *, alpha: float, planned_units: int) -> Interval:
        """Return the two-sided interval; nothing known: anything is possible."""
        if not self.is_known:
            return Interval(self.value, -math.inf, math.inf)
        if method is Method.FIXED:
            reach = self.error * float(stats.t.ppf(1 - alpha / 2, self._freedom()))
        else:
            reach = float(
                sequential.half_width(
                    self.error, self.units, planned_units=planned_units, alpha=alpha
                )
            )
        return Interval(self.value, self.value - reach, self.value + reach)

    def p_value(self, method: Method, *, alpha: float, planned_units: int) -> float:
        """Return p of no effect: Welch's, or the always-valid one."""
        if not self.is_known:
            return 1.0
        if method is Method.FIXED:
            return float(2 * stats.t.sf(abs(self.value) / self.error, self._freedom()))
        return float(
            sequential.p_value(
                self.value, self.error, self.units, planned_units=planned_units, alpha=alpha
            )
        )

    def newcombe(self, alpha: float) -> Interval:
        """Return the fixed-horizon interval of a difference of shares by Newcombe's method 10."""
        control, variant = self.control, self.variant
        if not (control.units and variant.units):
            return Interval(self.value, -1.0, 1.0)
        low, high = confint_proportions_2indep(
            round(variant.value * variant.units),
            variant.units,
            round(control.value * control.units),
            control.units,
            method="newcomb",
            compare="diff",
            alpha=alpha,
        )
        return Interval(self.value, float(low), float(high))

    def _freedom(self) -> float:
        """Welch's and Satterthwaite's degrees of freedom."""
        parts = (self.variant.squared_error, self.control.squared_error)
        below = sum(
            part**2 / (arm.units - 1)
            for part, arm in zip(parts, (self.variant, self.control), strict=True)
        )
        return sum(parts) ** 2 / below if below else math.inf


def difference(control: Estimate, variant: Estimate) -> Effect:
    """Return the variant less the control.

    A small arm may by chance hold none of the rare units that make the variance: a hundredth of
    the traffic, and an event of one unit in a hundred. Its own variance would then be far too
    small, the sooner the more often one looks. So where arms are of unequal size the smaller one
    is taken to vary no less than both together do.
    """
    control, variant = _wary(control, variant), _wary(variant, control)
    error = math.sqrt(control.squared_error + variant.squared_error)
    return Effect(variant.value - control.value, error, control, variant)


def _wary(one: Estimate, other: Estimate) -> Estimate:
    """Return an estimate with the variance it can be trusted with beside a larger arm."""
    if not 0 < _UNEQUAL * one.units < other.units:
        return one
    pooled = one.units * one.unit_variance + other.units * other.unit_variance
    pooled /= one.units + other.units
    return replace(one, unit_variance=max(one.unit_variance, pooled))


def relative(absolute: Effect, base: float | None = None) -> Effect:
    """Return an effect as a share of the control, its error by the delta method.

    `base` is the control's value as it was measured, where a regression has adjusted the effect.
    """
    control, variant = absolute.control, absolute.variant
    base = control.value if base is None else base
    if not base or not math.isfinite(base):
        return Effect(float("nan"), float("nan"), control, variant, is_relative=True)
    variance = variant.squared_error / base**2
    variance += control.squared_error * (absolute.value + base) ** 2 / base**4
    return Effect(absolute.value / base, math.sqrt(variance), control, variant, is_relative=True)


def adjusted(arms: Sequence[Moments]) -> list[Estimate]:
    """Return every arm's mean, freed of what the covariate explains; one slope for all arms."""
    pooled = Moments()
    for one in arms:
        pooled += one
    spread = pooled.covariate_variance
    slope = pooled.covariate_covariance / spread if spread > 0 else 0.0
    centre = pooled.x / pooled.units if pooled.units else 0.0
    return [one.adjusted_mean(slope, centre) for one in arms]
