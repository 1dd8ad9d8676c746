"""Intervals and tests of rates, means and paired differences; scipy and statsmodels do the work."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

__all__ = [
    "Interval",
    "McNemar",
    "bca",
    "clustered_mean",
    "false_discovery",
    "holm",
    "mcnemar_test",
    "newcombe",
    "rate",
    "swap_test",
    "wilson",
]

_RESAMPLES = 9999
# Bounds the memory of one batch of resamples.
_BATCH = 500

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence limits."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: float, alpha: float = 0.05) -> Interval:
    """Return a rate with Wilson's score interval; no trials: any rate is possible."""
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    low, high = proportion_confint(successes, trials, alpha=alpha, method="wilson")
    return Interval(successes / trials, float(low), float(high))


def rate(
    successes: Sequence[Sequence[float]], clusters: Sequence[Hashable], alpha: float = 0.05
) -> Interval:
    """Return the mean over items of several samples each, with an interval inside [0, 1].

    It is Wilson's for as many trials as the clustered standard error is worth: answers to one
    item are not independent of each other.
    """
    means = np.array([np.mean(samples) for samples in successes])
    if not len(means):
        return wilson(0, 0, alpha)
    num_clusters = len(set(clusters))
    num_answers = sum(map(len, successes))
    value = float(means.mean())
    trials = float(num_clusters)
    if num_clusters == num_answers:
        trials = float(num_answers)
    elif 0 < value < 1 and num_clusters > 1:
        error = _clustered_error(means, clusters)
        if error > 0:
            trials = value * (1 - value) / error**2
        trials = float(np.clip(trials, 1, num_answers))
    return Interval(value, *_limits(wilson(value * trials, trials, alpha)))


def _limits(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _clustered_error(values: Values, clusters: Sequence[Hashable]) -> float:
    return float(_clustered_fit(values, clusters).bse[0])


def _clustered_fit(values: Values, clusters: Sequence[Hashable]):  # type: ignore[no-untyped-def]
    groups = np.unique([str(cluster) for cluster in clusters], return_inverse=True)[1]
    return OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], alpha: float = 0.05
) -> tuple[Interval, float]:
    """Return a mean of clustered values by its cluster-robust error, and p of its being zero."""
    array = np.asarray(values, dtype=np.float64)
    value = float(array.mean())
    if len(set(clusters)) < 2:
        return _anything(value), 1.0
    if np.ptp(array) == 0:
        return Interval(value, value, value), float(value == 0)
    fit = _clustered_fit(array, clusters)
    low, high = fit.conf_int(alpha)[0]
    return Interval(value, float(low), float(high)), float(fit.pvalues[0])


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of a paired binary outcome."""

    # Pairs that only the first, and only the second, got right.
    only_first: int
    only_second: int
    exact: float
    # Less conservative than `exact`, hardly ever above its nominal level (Fagerland 2013).
    mid: float


def mcnemar_test(only_first: int, only_second: int) -> McNemar:
    discordant = only_first + only_second
    if discordant == 0:
        return McNemar(0, 0, 1.0, 1.0)
    table = [[0, only_first], [only_second, 0]]
    exact = float(mcnemar(table, exact=True).pvalue)
    point = float(stats.binom.pmf(min(only_first, only_second), discordant, 0.5))
    # With equal counts both tails meet in the middle, and the point counts once.
    mid = exact - point if only_first != only_second else 1 - point / 2
    return McNemar(only_first, only_second, exact, min(1.0, mid))


def newcombe(
    both: int, only_first: int, only_second: int, neither: int, alpha: float = 0.05
) -> Interval:
    """Return the second's rate minus the first's, paired, by Newcombe's method 10 (1998)."""
    total = both + only_first + only_second + neither
    if total == 0:
        return Interval(float("nan"), -1.0, 1.0)
    first = wilson(both + only_first, total, alpha)
    second = wilson(both + only_second, total, alpha)
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - total / 2, 0)
    correlation = product / np.sqrt(margins) if margins else 0.0

    def distance(up: float, down: float) -> float:
        return float(np.sqrt(up**2 - 2 * correlation * up * down + down**2))

    value = second.value - first.value
    return Interval(
        value,
        value - distance(second.value - second.low, first.high - first.value),
        value + distance(second.high - second.value, first.value - first.low),
    )


def bca(differences: Sequence[float], alpha: float = 0.05) -> Interval:
    """Return a mean with its bias-corrected, accelerated bootstrap interval."""
    array = np.asarray(differences, dtype=np.float64)
    value = float(array.mean())
    if len(array) < 2:
        return _anything(value)
    if np.ptp(array) == 0:
        return Interval(value, value, value)
    found = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=1 - alpha,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _anything(value: float) -> Interval:
    """One value says nothing of how others would lie."""
    return Interval(value, -np.inf, np.inf)


def swap_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Return p of no difference: how often swapping the two within pairs does as much."""
    pair = (np.asarray(second, dtype=np.float64), np.asarray(first, dtype=np.float64))
    if np.array_equal(*pair):
        return 1.0

    def mean_difference(left: Values, right: Values, axis: int) -> Values:
        return np.asarray(np.mean(left - right, axis=axis))

    found = stats.permutation_test(
        pair,
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of which at most one in 1/alpha families holds a false alarm.

    statsmodels' own collects garbage at every call, which stops a server for a fifth of a second.
    """
    array = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    raised = np.maximum.accumulate(array[order] * np.arange(len(array), 0, -1))
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Return Benjamini and Hochberg's adjusted p-values, for looking around."""
    if not p_values:
        return []
    return [float(value) for value in stats.false_discovery_control(p_values, method="bh")]
