"""Clustered quantiles against gbstats 0.8.0 and by coverage."""

import numpy as np
import pytest
from scipy import stats

from bosal_server.statistics.quantile import clustered_quantile


def test_error_is_that_of_gbstats() -> None:
    index = np.arange(600)
    clusters = (index * 7) % 120
    values = ((index * 7919) % 601) / 601 * 100 + clusters * 0.5
    found = clustered_quantile(values, clusters, 0.9)
    assert found is not None
    assert found.value == pytest.approx(127.17886855241264, rel=1e-12)
    # gbstats divides its figure, 5.8275, by one value more.
    assert found.squared_error == pytest.approx(5.837234315401405, rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_although_a_units_requests_are_alike(level: float) -> None:
    generator = np.random.default_rng(5)
    units, per_unit, runs = 400, 5, 400
    clusters = np.repeat(np.arange(units), per_unit)
    # A unit's part and a request's, of equal variance.
    truth = float(stats.norm.ppf(level, scale=np.sqrt(2)))
    covered = naive = 0
    for _ in range(runs):
        values = np.repeat(generator.normal(size=units), per_unit)
        values += generator.normal(size=units * per_unit)
        found = clustered_quantile(values, clusters, level)
        alone = clustered_quantile(values, np.arange(len(values)), level)
        assert found is not None
        assert alone is not None
        covered += abs(found.value - truth) < 1.96 * np.sqrt(found.squared_error)
        naive += abs(alone.value - truth) < 1.96 * np.sqrt(alone.squared_error)
    assert covered / runs > 0.92
    assert naive < covered


def test_too_few_values_have_no_error() -> None:
    assert clustered_quantile([1.0, 2.0, 3.0], np.array([0, 1, 2]), 0.99) is None
    assert clustered_quantile([], np.array([], dtype=np.int64), 0.5) is None
    assert clustered_quantile(np.arange(100.0), np.zeros(100, dtype=np.int64), 0.5) is None
