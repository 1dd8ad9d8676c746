"""Asymptotic confidence sequences: intervals that hold at every look at once.

Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2023), arXiv:2103.06476, equations 9, 155
and 161. They are narrowest, relative to a fixed-horizon interval, around the planned number of
units, and valid at any number; what they need is some fifty units an arm before the first look.

Every function takes numbers or arrays; `units` counts the units of all arms compared.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def mixing(planned_units: float, alpha: float) -> float:
    """Return rho, the spread of the mixture, tightest at the planned number of units."""
    log = -2 * np.log(alpha)
    return float(np.sqrt((log + np.log(log + 1)) / planned_units))


def half_width(error: ArrayLike, units: ArrayLike, *, planned_units: float, alpha: float) -> Values:
    """Return how far the two-sided interval reaches from an effect of the given standard error."""
    count = np.asarray(units, dtype=np.float64)
    spread = count * mixing(planned_units, alpha) ** 2
    log = np.log(np.sqrt(spread + 1) / alpha)
    return np.asarray(error * np.sqrt(2 * (spread + 1) / spread * log))


def p_value(
    effect: ArrayLike, error: ArrayLike, units: ArrayLike, *, planned_units: float, alpha: float
) -> Values:
    """Return p of no effect, valid however often it is looked at."""
    z = np.asarray(effect, dtype=np.float64) / np.asarray(error, dtype=np.float64)
    spread = np.asarray(units, dtype=np.float64) * mixing(planned_units, alpha) ** 2
    found = np.sqrt(spread + 1) * np.exp(-spread * z**2 / (2 * (spread + 1)))
    return np.asarray(np.minimum(found, 1.0))


def one_sided_reach(
    error: ArrayLike, units: ArrayLike, *, planned_units: float, alpha: float
) -> Values:
    """Return how far below an effect its lower bound lies, when only one side matters."""
    count = np.asarray(units, dtype=np.float64)
    spread = count * mixing(planned_units, 2 * alpha) ** 2
    log = np.log1p(np.sqrt(spread + 1) / (2 * alpha))
    return np.asarray(error * np.sqrt(2 * (spread + 1) / spread * log))
