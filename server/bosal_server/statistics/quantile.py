"""Quantiles of values that come in clusters: several requests of one unit.

Source: Deng, Knoblich, Lu (2018), arXiv:1803.06336, and Yao, Li, Lu (2024): the error as if values
were independent, times what clustering adds to the variance of the share below the quantile.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bosal_server.statistics.moments import Estimate, Moments

__all__ = ["clustered_quantile"]

_ALPHA = 0.05


def clustered_quantile(
    values: ArrayLike, clusters: NDArray[np.int64], level: float
) -> Estimate | None:
    """Return a quantile; `units` is the number of values. None: too few for its error.

    `clusters` gives each value's cluster as a number from 0.
    """
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    z = float(stats.norm.isf(_ALPHA / 2))
    reach = z * math.sqrt(level * (1 - level) / count) if count else math.inf
    num_clusters = len(np.unique(clusters))
    if not (level - reach > 0 and level + reach < 1) or num_clusters < 2:
        return None
    value, low, high = np.quantile(
        array, [level, level - reach, level + reach], method="inverted_cdf"
    )
    independent = ((high - low) / (2 * z)) ** 2
    below = np.bincount(clusters, weights=array <= value)
    sizes = np.bincount(clusters)
    present = sizes > 0
    share = Moments.of(below[present], denominators=sizes[present]).ratio()
    inflation = share.squared_error / (level * (1 - level) / count)
    return Estimate(count, float(value), float(independent * inflation * count))
