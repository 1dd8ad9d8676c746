"""Sums over one arm's units, all that effects on means and ratios need; and what they estimate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Estimate", "Moments"]

# Of a mean square, what sums of a billion units may have lost.
_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity of one arm: its value, and the variance a single unit adds to it."""

    units: int
    value: float
    unit_variance: float

    @property
    def squared_error(self) -> float:
        return self.unit_variance / self.units if self.units else float("nan")


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over units of a value y, a denominator d and a covariate x known before exposure."""

    units: int = 0
    y: float = 0.0
    yy: float = 0.0
    d: float = 0.0
    dd: float = 0.0
    yd: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(
        cls,
        values: ArrayLike,
        *,
        denominators: ArrayLike | None = None,
        covariates: ArrayLike | None = None,
    ) -> Self:
        """Sum over units given one by one."""
        y = np.asarray(values, dtype=np.float64)
        d = np.ones_like(y) if denominators is None else np.asarray(denominators, dtype=np.float64)
        x = np.zeros_like(y) if covariates is None else np.asarray(covariates, dtype=np.float64)
        sums = (float(part.sum()) for part in (y, y * y, d, d * d, y * d, x, x * x, x * y))
        return cls(len(y), *sums)

    @classmethod
    def read(cls, numbers: Sequence[float]) -> Self:
        """Read what `numbers` gave."""
        return cls(int(numbers[0]), *numbers[1:])

    @property
    def numbers(self) -> tuple[float, ...]:
        """The sums in the order of the fields."""
        return (
            self.units, self.y, self.yy, self.d, self.dd, self.yd, self.x, self.xx, self.xy
        )  # fmt: skip

    def __add__(self, other: "Moments") -> "Moments":
        return Moments.read([a + b for a, b in zip(self.numbers, other.numbers, strict=True)])

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments.read([a - b for a, b in zip(self.numbers, other.numbers, strict=True)])

    @property
    def value_variance(self) -> float:
        return self._variance(self.yy, self.y)

    @property
    def covariate_variance(self) -> float:
        return self._variance(self.xx, self.x)

    @property
    def covariate_covariance(self) -> float:
        return self._covariance(self.xy, self.x, self.y)

    def mean(self) -> Estimate:
        """Return the mean over units."""
        if not self.units:
            return Estimate(0, float("nan"), float("nan"))
        return Estimate(self.units, self.y / self.units, self.value_variance)

    def proportion(self) -> Estimate:
        """Return the share of units whose value is 1; their values must be 0 or 1."""
        if not self.units:
            return Estimate(0, float("nan"), float("nan"))
        share = self.y / self.units
        return Estimate(self.units, share, share * (1 - share))

    def ratio(self) -> Estimate:
        """Return sum of y over sum of d; its variance by the delta method (Deng 2018)."""
        if not self.units or self.d == 0:
            return Estimate(self.units, float("nan"), float("nan"))
        value, size = self.y / self.d, self.d / self.units
        # The variance of the residual y - value * d, by its parts.
        variance = (
            self.value_variance
            - 2 * value * self._covariance(self.yd, self.y, self.d)
            + value**2 * self._variance(self.dd, self.d)
        )
        return Estimate(self.units, value, max(variance, 0.0) / size**2)

    def adjusted_mean(self, slope: float, centre: float) -> Estimate:
        """Return the mean that a regression on the covariate leaves (CUPED, Deng 2013).

        `slope` and `centre`, the covariate's mean, are those of all arms together.
        """
        if not self.units:
            return Estimate(0, float("nan"), float("nan"))
        variance = (
            self.value_variance
            + slope**2 * self.covariate_variance
            - 2 * slope * self.covariate_covariance
        )
        value = (self.y - slope * (self.x - self.units * centre)) / self.units
        return Estimate(self.units, value, max(variance, 0.0))

    def _covariance(self, products: float, one: float, other: float) -> float:
        if self.units < 2:
            return float("nan")
        return (products - one * other / self.units) / (self.units - 1)

    def _variance(self, squares: float, total: float) -> float:
        if self.units < 2:
            return float("nan")
        found = self._covariance(squares, total, total)
        # Values that are all the same leave what rounding makes of them, on either side of 0.
        return 0.0 if found < _ROUNDING * squares / self.units else found
