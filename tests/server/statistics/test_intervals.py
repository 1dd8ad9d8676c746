"""Intervals and tests against formulas, enumeration and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from bosal_server.statistics import intervals


def test_wilson_is_the_root_of_the_score_equation() -> None:
    for successes, trials in ((0, 10), (17, 20), (3, 600), (20, 20)):
        found = intervals.wilson(successes, trials)
        for limit in (found.low, found.high):
            if limit not in (0.0, 1.0):
                distance = abs(successes / trials - limit)
                assert distance == pytest.approx(
                    1.959964 * math.sqrt(limit * (1 - limit) / trials), rel=1e-5, abs=1e-8
                )


def test_wilson_of_nothing_allows_everything() -> None:
    found = intervals.wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_rate_of_single_answers_is_wilsons() -> None:
    answers = [[1.0]] * 17 + [[0.0]] * 3
    assert intervals.rate(answers, range(20)) == intervals.wilson(17, 20)


def test_repeated_answers_count_for_as_much_as_they_are_worth() -> None:
    varied = [[1.0, 0.0, 1.0, 1.0]] * 10 + [[0.0, 0.0, 1.0, 0.0]] * 10
    same = [[1.0] * 4] * 10 + [[0.0] * 4] * 10
    once = intervals.wilson(10, 20)
    assert intervals.rate(same, range(20)).low == pytest.approx(once.low, abs=0.01)
    assert intervals.rate(varied, range(20)).low > once.low + 0.05


@pytest.mark.parametrize("true_rate", [0.08, 0.5, 0.9])
def test_the_interval_of_clustered_answers_covers_the_truth(true_rate: float) -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        chances = rng.beta(true_rate * 2, (1 - true_rate) * 2, size=60)
        answers = [list((rng.random(3) < chance).astype(float)) for chance in chances]
        found = intervals.rate(answers, range(60))
        covered += found.low <= true_rate <= found.high
    assert 0.92 <= covered / 400 <= 0.985


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (2, 7), (7, 2), (5, 5), (3, 9)])
def test_mcnemar_equals_the_enumeration_of_all_splits(first: int, second: int) -> None:
    total = first + second
    exact = mid = 0.0
    for split in itertools.product((0, 1), repeat=total):
        extreme = abs(sum(split) - total / 2)
        observed = abs(first - total / 2)
        exact += extreme >= observed
        mid += (extreme > observed) + (extreme == observed) / 2
    found = intervals.mcnemar_test(first, second)
    assert (found.only_first, found.only_second) == (first, second)
    assert found.exact == pytest.approx(exact / 2**total)
    assert found.mid == pytest.approx(mid / 2**total if total else 1.0)


def test_newcombe_gives_the_published_limits() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), 2635, table II, method 10: 36, 12, 2, 0.
    found = intervals.newcombe(36, 2, 12, 0)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0569, abs=5e-5)
    assert found.high == pytest.approx(0.3404, abs=5e-5)


def test_newcombe_turns_its_sign_with_the_arms() -> None:
    found, turned = intervals.newcombe(30, 4, 11, 55), intervals.newcombe(30, 11, 4, 55)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


@pytest.mark.parametrize("shares", [(0.5, 0.05, 0.15, 0.3), (0.9, 0.02, 0.02, 0.06)])
def test_newcombe_covers_the_true_difference(shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    tables = rng.multinomial(120, shares, size=1500)
    covered = 0
    for both, only_first, only_second, neither in tables:
        found = intervals.newcombe(both, only_first, only_second, neither)
        covered += found.low <= shares[2] - shares[1] <= found.high
    assert 0.935 <= covered / 1500 <= 0.985


def test_the_clustered_error_is_the_sum_over_clusters() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=60) + np.repeat(rng.normal(size=12), 5)
    clusters = np.repeat(np.arange(12), 5)
    interval, p = intervals.clustered_mean(list(values), list(clusters))
    mean = values.mean()
    sums = [(values[clusters == cluster] - mean).sum() for cluster in range(12)]
    # statsmodels' small-sample factor.
    error = math.sqrt(sum(one**2 for one in sums) * 12 / 11) / 60
    assert interval.value == pytest.approx(mean)
    # The t quantile of 11 degrees of freedom, from a table.
    assert interval.high - mean == pytest.approx(2.201 * error, rel=1e-3)
    assert interval.low < 0 < interval.high
    assert 0.05 < p < 1


def test_the_bootstrap_covers_the_mean_of_skewed_differences() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        values = rng.exponential(size=80) - 0.5
        found = intervals.bca(list(values))
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 100 <= 0.99


def test_the_bootstrap_of_equal_differences_has_no_width() -> None:
    assert intervals.bca([0.25, 0.25, 0.25]) == intervals.Interval(0.25, 0.25, 0.25)


def test_one_value_allows_everything() -> None:
    limits = (-math.inf, math.inf)
    alone = intervals.bca([0.3])
    assert (alone.value, alone.low, alone.high) == (0.3, *limits)
    together, p = intervals.clustered_mean([0.5, 0.25], ["a", "a"])
    assert (together.low, together.high, p) == (*limits, 1.0)


def test_the_swap_test_equals_the_enumeration_of_all_swaps() -> None:
    first = [0.1, 0.5, 0.2, 0.9, 0.4, 0.3, 0.7, 0.6]
    second = [0.4, 0.6, 0.2, 0.8, 0.9, 0.5, 0.9, 0.9]
    differences = np.subtract(second, first)
    observed = abs(differences.sum())
    signs = itertools.product((1, -1), repeat=len(first))
    extreme = [abs(np.dot(sign, differences)) >= observed - 1e-12 for sign in signs]
    assert intervals.swap_test(first, second) == pytest.approx(np.mean(extreme))
    assert intervals.swap_test(first, first) == 1.0


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([]) == []


def test_false_discovery_divides_by_the_rank() -> None:
    assert intervals.false_discovery([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_p_values_are_statsmodels(seed: int) -> None:
    p_values = np.random.default_rng(seed).uniform(size=seed * 3 + 1) ** 3
    p_values[-1] = p_values[0]
    for ours, method in ((intervals.holm, "holm"), (intervals.false_discovery, "fdr_bh")):
        assert ours(p_values.tolist()) == pytest.approx(multipletests(p_values, method=method)[1])
