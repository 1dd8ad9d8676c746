"""Whether arms have the shares they were given: a mismatch means that something was lost.

Lindon and Malek (2020), arXiv:2011.03567: a Dirichlet-multinomial Bayes factor, which may be
looked at after every unit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

__all__ = ["PRIOR", "bayes_p", "chi_square_p"]

# Units the prior is worth: how firmly shares are believed to be near those planned.
PRIOR = 100.0


def bayes_p(
    counts: ArrayLike, weights: Sequence[float], prior: float = PRIOR
) -> NDArray[np.float64]:
    """Return 1 / Bayes factor, at most 1; its minimum over time is an always-valid p-value.

    `counts` [..., arms] are units; the result has their leading shape.
    """
    found = np.asarray(counts, dtype=np.float64)
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    total = found.sum(axis=-1)
    log = gammaln(prior) - gammaln(prior + total)
    log += np.sum(gammaln(prior * shares + found) - gammaln(prior * shares), axis=-1)
    log -= found @ np.log(shares)
    return np.asarray(np.exp(np.minimum(0.0, -log)))


def chi_square_p(counts: Sequence[int], weights: Sequence[float]) -> float:
    """Return Pearson's p-value, good for one look alone."""
    total = sum(counts)
    if not total or len(counts) < 2:
        return 1.0
    shares = np.asarray(weights, dtype=np.float64)
    return float(stats.chisquare(counts, shares / shares.sum() * total).pvalue)
