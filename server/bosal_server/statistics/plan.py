"""How many units an experiment needs before it can be expected to find an effect."""

import math

from scipy import optimize, stats

from bosal_server.statistics import sequential
from bosal_server.statistics.effect import Method

__all__ = ["power", "units_needed"]


def power(
    units: int, *, effect: float, deviation: float, method: Method, alpha: float = 0.05
) -> float:
    """Return the chance that two equal arms of `units` together show the effect at their end.

    `deviation` is the standard deviation of the metric over units. A sequence is planned for
    these very units; watched live it finds a little more, since an earlier look may show it too.
    """
    error = 2 * deviation / math.sqrt(units)
    if method is Method.FIXED:
        reach = error * float(stats.norm.isf(alpha / 2))
    else:
        reach = float(sequential.half_width(error, units, planned_units=units, alpha=alpha))
    shift = abs(effect)
    return float(stats.norm.sf((reach - shift) / error) + stats.norm.cdf((-reach - shift) / error))


def units_needed(
    *,
    effect: float,
    deviation: float,
    method: Method,
    alpha: float = 0.05,
    power_wanted: float = 0.8,
) -> int:
    """Return the fewest units, both arms together, that reach the power.

    Raises:
        ValueError: the effect or the deviation is not above zero.
    """
    if not (effect and deviation > 0):
        raise ValueError("an effect and a deviation above zero are needed")

    def missing(units: float) -> float:
        found = power(
            math.ceil(units), effect=effect, deviation=deviation, method=method, alpha=alpha
        )
        return found - power_wanted

    high = 4.0
    while missing(high) < 0:
        high *= 2
    if high == 4.0:
        return 4
    return math.ceil(float(optimize.brentq(missing, high / 2, high, xtol=0.5)))
