"""How many items a paired comparison needs to see a difference of a given size."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower

from bosal_lab.compare import pairs
from bosal_lab.evaluation_errors import ArmError
from bosal_lab.results import Results

__all__ = ["Need", "binary_need", "binary_power", "mean_need", "measured_spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A sample size and the power it gives."""

    items: int
    power: float
    # Items of which the two recipes disagree, on average; None for means.
    discordant: float | None = None


def binary_power(items: int, *, difference: float, discordance: float, alpha: float) -> float:
    """Return the chance that McNemar's mid-p test finds the difference, exactly.

    The number of discordant pairs is binomial, and so is its split between the two recipes.
    """
    share = (1 + difference / discordance) / 2
    counts = np.arange(items + 1)
    weights = stats.binom.pmf(counts, items, discordance)
    kept = counts[weights > 1e-9]
    power = 0.0
    for count in kept:
        wins = np.arange(count // 2 + 1)
        tail = 2 * stats.binom.cdf(wins, count, 0.5) - stats.binom.pmf(wins, count, 0.5)
        rejected = np.flatnonzero(tail <= alpha)
        if len(rejected):
            most = int(rejected[-1])
            found = stats.binom.cdf(most, count, share) + stats.binom.sf(
                count - most - 1, count, share
            )
            power += float(weights[count] * found)
    return power


def binary_need(
    *, difference: float, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> Need:
    """Return about the fewest items with which McNemar's test reaches `power`.

    `discordance` is the share of items only one of the two gets right.
    """
    difference = abs(difference)
    if not 0 < difference <= discordance <= 1:
        raise ArmError(
            f"a difference of {difference:g} needs a discordance between {difference:g} and 1, "
            f"not {discordance:g}"
        )
    # Connor's formula (1987) starts the search.
    normal = stats.norm
    spread = math.sqrt(discordance - difference**2)
    guess = (
        (normal.isf(alpha / 2) * math.sqrt(discordance) + normal.isf(1 - power) * spread)
        / difference
    ) ** 2

    def reached(items: int) -> float:
        return binary_power(items, difference=difference, discordance=discordance, alpha=alpha)

    low, high = 1, max(2, math.ceil(guess))
    while reached(high) < power:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return Need(items=high, power=reached(high), discordant=high * discordance)


def mean_need(
    *, difference: float, deviation: float, alpha: float = 0.05, power: float = 0.8
) -> Need:
    """Return the fewest items with which a paired t-test reaches `power`.

    `deviation` is the standard deviation of the differences within pairs.
    """
    if not (difference and deviation > 0):
        raise ArmError("a difference and a deviation above zero are needed")
    effect = abs(difference) / deviation
    test = TTestPower()

    def missing(items: float) -> float:
        return float(test.power(effect, items, alpha)) - power

    high = 4.0
    while missing(high) < 0:
        high *= 2
    items = 2 if missing(2.0) >= 0 else math.ceil(optimize.brentq(missing, 2.0, high))
    return Need(items=items, power=float(test.power(effect, items, alpha)))


def measured_spread(
    path: Path, first: str, second: str, *, metric: str
) -> tuple[float | None, float | None]:
    """Return the discordance of a binary metric, or the deviation of paired differences."""
    with Results.open(path) as results:
        found, _ = pairs(results, first, second, metric, results.items)
    if len(found) < 2:
        raise ArmError(f"{first} and {second} share too few items with a value of {metric}")
    differences = [pair.difference for pair in found]
    if all(pair.is_binary for pair in found):
        return float(np.mean(np.abs(differences))), None
    return None, float(np.std(differences, ddof=1))
