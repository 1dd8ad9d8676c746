"""Two made-up arms that every implementation was given, by whole-number arithmetic alone."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def arm(units: int, shift: float, seed: int) -> tuple[Values, Values, Values]:
    """Return every unit's value, denominator and covariate."""
    index = np.arange(units, dtype=np.float64)
    covariate = ((index * 7919 + seed) % 97) / 97 * 10
    value = covariate * 0.5 + ((index * 104729 + seed) % 89) / 89 * 4 + shift
    denominator = 1 + (index * 31 + seed) % 5
    return value, denominator, covariate


CONTROL = arm(400, 0.0, 3)
VARIANT = arm(420, 0.4, 11)
