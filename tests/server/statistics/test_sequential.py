"""False alarms and power when somebody looks all the time, by simulation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bosal_server.statistics import sequential
from bosal_server.statistics.effect import Method, difference
from bosal_server.statistics.moments import Estimate
from bosal_server.statistics.plan import power, units_needed

Values = NDArray[np.float64]
PLANNED, ALPHA, BURN_IN = 5000, 0.05, 50
RUNS = 2000


def bernoulli(runs: int, looks: int, step: int, shares: tuple[float, float]) -> tuple[Values, ...]:
    """Return, for every run and look, the units of an arm, both effects' values and errors."""
    generator = np.random.default_rng(7)
    sums = [np.cumsum(generator.binomial(step, share, (runs, looks)), axis=1) for share in shares]
    units = step * np.arange(1, looks + 1, dtype=np.float64)
    means = [total / units for total in sums]
    variances = [mean * (1 - mean) * units / np.maximum(units - 1, 1) for mean in means]
    error = np.sqrt(sum(variances) / units)
    return units, means[1] - means[0], np.maximum(error, 1e-12)


def ever(rejected: NDArray[np.bool_], units: Values) -> float:
    """Return the share of runs that reject at any look after the burn-in."""
    return float(rejected[:, units >= BURN_IN].any(axis=1).mean())


@pytest.mark.parametrize(
    ("share", "looks", "step"), [(0.3, 200, 50), (0.02, 200, 50), (0.3, 2000, 1)]
)
def test_peeking_at_every_look_raises_no_false_alarm(share: float, looks: int, step: int) -> None:
    units, effect, error = bernoulli(RUNS, looks, step, (share, share))
    p = sequential.p_value(effect, error, 2 * units, planned_units=PLANNED, alpha=ALPHA)
    alarms = ever(p < ALPHA, units)
    assert alarms <= ALPHA
    # Two standard errors around what was measured for this design, 1.7 to 2.7 %.
    assert 0.01 < alarms < 0.035
    width = sequential.half_width(error, 2 * units, planned_units=PLANNED, alpha=ALPHA)
    assert ever(np.abs(effect) > width, units) == alarms


def test_skewed_values_raise_no_false_alarm() -> None:
    generator = np.random.default_rng(11)
    values = generator.lognormal(sigma=1.0, size=(2, RUNS, 2000))
    units = np.arange(1, 2001, dtype=np.float64)
    means = np.cumsum(values, axis=2) / units
    squares = np.cumsum(values**2, axis=2) / units - means**2
    error = np.sqrt(squares.sum(axis=0) / units)
    p = sequential.p_value(
        means[1] - means[0], np.maximum(error, 1e-12), 2 * units, planned_units=4000, alpha=ALPHA
    )
    assert ever(p < ALPHA, units) <= ALPHA


@pytest.mark.parametrize(("weight", "share"), [(0.2, 0.01), (0.05, 0.05), (0.01, 0.01)])
def test_a_small_share_of_the_traffic_raises_no_false_alarm(weight: float, share: float) -> None:
    # By the small arm's own variance it would be 11, 14 and 60 of a hundred.
    generator = np.random.default_rng(13)
    runs, looks, step = 150, 40, 500
    alarms = 0
    for _ in range(runs):
        sizes = generator.binomial(step, weight, looks)
        steps = np.stack([step - sizes, sizes])
        units = np.cumsum(steps, axis=1)
        events = np.cumsum(generator.binomial(steps, share), axis=1)
        alarms += any(
            difference(*(arm(int(k), int(n)) for k, n in zip(hits, sizes, strict=True))).p_value(
                Method.SEQUENTIAL, alpha=ALPHA, planned_units=PLANNED
            )
            < ALPHA
            for hits, sizes in zip(events.T, units.T, strict=True)
            if min(sizes) >= BURN_IN
        )
    assert alarms / runs <= ALPHA


def arm(hits: int, units: int) -> Estimate:
    share = hits / units
    return Estimate(units, share, share * (1 - share))


def test_naive_peeking_would_alarm_in_four_runs_of_ten() -> None:
    # The reason for all this; and proof that the simulation can fail.
    units, effect, error = bernoulli(RUNS, 200, 50, (0.3, 0.3))
    assert ever(np.abs(effect / error) > 1.96, units) > 0.35


def test_a_guardrail_alarms_no_oftener_than_it_may() -> None:
    units, effect, error = bernoulli(RUNS, 200, 50, (0.3, 0.3))
    reach = sequential.one_sided_reach(error, 2 * units, planned_units=PLANNED, alpha=ALPHA)
    assert ever(effect > reach, units) <= ALPHA


def test_an_effect_of_the_planned_size_is_found() -> None:
    effect, deviation = 0.05, float(np.sqrt(0.3 * 0.7))
    needed = units_needed(effect=effect, deviation=deviation, method=Method.SEQUENTIAL)
    step = needed // 2 // 100
    units, found, error = bernoulli(RUNS, 100, step, (0.3, 0.35))
    p = sequential.p_value(found, error, 2 * units, planned_units=needed, alpha=ALPHA)
    assert ever((p < ALPHA) & (found > 0), units) >= 0.8


def test_a_fixed_plan_is_the_textbooks() -> None:
    # 0.5 against 0.6: 2 * (1.96 + 0.8416)^2 / 0.2^2 an arm.
    needed = units_needed(effect=0.1, deviation=0.5, method=Method.FIXED)
    assert needed == pytest.approx(2 * 392.4, abs=2)
    assert power(needed, effect=0.1, deviation=0.5, method=Method.FIXED) >= 0.8
    assert power(needed - 4, effect=0.1, deviation=0.5, method=Method.FIXED) < 0.8


def test_the_price_of_peeking_is_as_published() -> None:
    for share, factor in ((1.0, 1.55), (1 / 5, 1.72), (1 / 25, 2.60), (4.0, 1.60)):
        width = sequential.half_width(1.0, PLANNED * share, planned_units=PLANNED, alpha=ALPHA)
        assert float(width) / 1.959964 == pytest.approx(factor, abs=0.02)


@pytest.mark.parametrize(("effect", "deviation"), [(0.0, 1.0), (0.1, 0.0)])
def test_a_plan_needs_something_to_find(effect: float, deviation: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        units_needed(effect=effect, deviation=deviation, method=Method.FIXED)
