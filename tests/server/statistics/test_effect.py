"""Effects against what gbstats 0.8.0 and tea-tasting 1.14.0 printed for the same numbers."""

import math

import numpy as np
import pytest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
from tests.server.statistics.samples import CONTROL, VARIANT

from bosal_server.statistics.effect import Effect, Method, adjusted, difference, relative
from bosal_server.statistics.intervals import Interval
from bosal_server.statistics.moments import Moments

SHARES = (Moments.of([1.0] * 1396 + [0.0] * 1604), Moments.of([1.0] * 1513 + [0.0] * 1489))
ARMS = tuple(Moments.of(y, denominators=d, covariates=x) for y, d, x in (CONTROL, VARIANT))


def shares() -> Effect:
    return difference(*(arm.proportion() for arm in SHARES))


def means() -> Effect:
    return difference(*(arm.mean() for arm in ARMS))


def ratios() -> Effect:
    return difference(*(arm.ratio() for arm in ARMS))


def regressed() -> Effect:
    return difference(*adjusted(ARMS))


def limits(found: Interval) -> tuple[float, float]:
    return found.low, found.high


# gbstats, checked by tea-tasting where that has it: effect, fixed interval, its p.
FIXED = [
    (shares(), 0.038664001776593404, 0.01339092856243869, 0.06393707499074812, 0.002719295999),
    (relative(shares()), 0.08308882903279, 0.02648034364337, 0.13969731442222, 0.004024109633),
    (means(), 0.3928582046742015, 0.13872937506386224, 0.6469870342845407, 0.0024864791641),
    (relative(means()), 0.088217739281, 0.02853904919805, 0.14789642936397, 0.00381314043027),
    (ratios(), 0.13095273489140058, 0.0005175034071147611, 0.2613879663756864, 0.0491000541994),
    (relative(ratios()), 0.088217739281, -0.00348083298035, 0.17991631154237, 0.05933142175638),
    (regressed(), 0.3901748744066471, 0.23154169545609918, 0.5488080533571951, 1.647314493e-06),
]


@pytest.mark.parametrize(("effect", "value", "low", "high", "p"), FIXED)
def test_a_planned_test_is_that_of_the_published_engines(
    effect: Effect, value: float, low: float, high: float, p: float
) -> None:
    found = effect.interval(Method.FIXED, alpha=0.05, planned_units=5000)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert limits(found) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    found_p = effect.p_value(Method.FIXED, alpha=0.05, planned_units=5000)
    assert found_p == pytest.approx(p, rel=1e-8)


# effect, planned units, interval, p.
LIVE = [
    (shares(), 5000, -0.0004849578867391069, 0.07781296143992592, 0.05541004864993976),
    (relative(shares()), 5000, -0.004599885843072929, 0.17077754390866, 0.07657829290321697),
    (means(), 800, -9.318004225977727e-05, 0.7858095893906628, 0.050097347714813216),
    (relative(means()), 800, -0.0040615347475285585, 0.18049701330955, 0.07117511399876969),
]


@pytest.mark.parametrize(("effect", "planned", "low", "high", "p"), LIVE)
def test_a_live_interval_is_that_of_the_published_engine(
    effect: Effect, planned: int, low: float, high: float, p: float
) -> None:
    found = effect.interval(Method.SEQUENTIAL, alpha=0.05, planned_units=planned)
    assert limits(found) == pytest.approx((low, high), rel=1e-9)
    found_p = effect.p_value(Method.SEQUENTIAL, alpha=0.05, planned_units=planned)
    assert found_p == pytest.approx(p, rel=1e-9)


def test_planned_and_live_disagree_where_peeking_would_mislead() -> None:
    live, planned = (shares().p_value(method, alpha=0.05, planned_units=5000) for method in Method)
    assert planned < 0.01 < 0.05 < live


def test_welchs_test_is_statsmodels() -> None:
    compared = CompareMeans(DescrStatsW(VARIANT[0]), DescrStatsW(CONTROL[0]))
    found = means().interval(Method.FIXED, alpha=0.1, planned_units=1)
    low, high = compared.tconfint_diff(alpha=0.1, usevar="unequal")
    assert limits(found) == pytest.approx((low, high), rel=1e-9)
    p = means().p_value(Method.FIXED, alpha=0.1, planned_units=1)
    assert p == pytest.approx(compared.ttest_ind(usevar="unequal")[1], rel=1e-9)


def test_newcombes_interval_is_the_published_example() -> None:
    # Newcombe (1998), table II: 56/70 against 48/80, method 10.
    control, variant = (
        Moments.of([1.0] * hits + [0.0] * (size - hits)).proportion()
        for hits, size in ((48, 80), (56, 70))
    )
    found = difference(control, variant).newcombe(0.05)
    assert limits(found) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_covariate_that_explains_something_narrows_the_interval() -> None:
    assert regressed().error < 0.7 * means().error
    # What it leaves is the difference at equal covariates, so it may move a little.
    assert regressed().value == pytest.approx(means().value, abs=means().error)


def test_sums_kept_by_differences_are_those_of_all_units() -> None:
    half = Moments.of(CONTROL[0][:150], covariates=CONTROL[2][:150])
    rest = Moments.of(CONTROL[0][150:], covariates=CONTROL[2][150:])
    whole = Moments.of(CONTROL[0], covariates=CONTROL[2])
    assert (half + rest).mean().unit_variance == pytest.approx(whole.mean().unit_variance)
    assert (whole - rest).covariate_covariance == pytest.approx(half.covariate_covariance)
    assert whole.mean().unit_variance == pytest.approx(float(np.var(CONTROL[0], ddof=1)))


@pytest.mark.parametrize("arms", [
    (Moments(), Moments.of([1.0, 2.0])),
    (Moments.of([1.0]), Moments.of([2.0, 3.0])),
    (Moments.of([1.0, 1.0]), Moments.of([1.0, 1.0])),
])  # fmt: skip
@pytest.mark.parametrize("method", Method)
def test_of_too_little_nothing_is_concluded(arms: tuple[Moments, Moments], method: Method) -> None:
    effect = difference(*(arm.mean() for arm in arms))
    found = effect.interval(method, alpha=0.05, planned_units=100)
    assert limits(found) == (-math.inf, math.inf)
    assert effect.p_value(method, alpha=0.05, planned_units=100) == 1.0


def test_there_is_no_share_of_nothing() -> None:
    effect = relative(difference(Moments.of([0.0, 0.0]).mean(), Moments.of([1.0, 2.0]).mean()))
    assert math.isnan(effect.value)
    assert effect.p_value(Method.FIXED, alpha=0.05, planned_units=100) == 1.0


def test_a_small_arm_that_saw_nothing_rare_yet_proves_nothing() -> None:
    # One event in a hundred units, a hundredth of the traffic: six of ten such arms have none.
    control, variant = Moments.of([1.0] * 50 + [0.0] * 4950), Moments.of([0.0] * 50)
    for arms in ((control, variant), (variant, control)):
        for effect in (
            difference(*(arm.proportion() for arm in arms)),
            difference(*(arm.mean() for arm in arms)),
        ):
            for method in Method:
                assert effect.p_value(method, alpha=0.05, planned_units=5000) > 0.4


def test_a_small_arm_that_varies_more_is_taken_at_its_word() -> None:
    generator = np.random.default_rng(5)
    control, variant = generator.normal(0, 1, 2000), generator.normal(0.5, 4, 100)
    found = difference(Moments.of(control).mean(), Moments.of(variant).mean())
    wanted = CompareMeans(DescrStatsW(variant), DescrStatsW(control))
    low, high = wanted.tconfint_diff(usevar="unequal")
    assert limits(found.interval(Method.FIXED, alpha=0.05, planned_units=1)) == pytest.approx(
        (low, high), rel=1e-9
    )


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e9 + 0.1, 1e-9])
def test_values_that_are_all_the_same_do_not_vary(value: float) -> None:
    sums = Moments()
    for _ in range(500):
        sums += Moments.of([value] * 7)
    assert sums.mean().unit_variance == 0
    other = sums + Moments.of([value] * 7)
    assert not difference(sums.mean(), other.mean()).is_known


def test_a_negative_covariance_counts_though_the_means_agree() -> None:
    y, x = [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]
    assert Moments.of(y, covariates=x).covariate_covariance == pytest.approx(np.cov(y, x)[0, 1])
