"""The check of shares: how often it alarms, with and without a reason."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaln

from bosal_server.statistics.sample_ratio import bayes_p, chi_square_p

RUNS, STEP, LOOKS = 4000, 50, 400


def first_alarms(share: float) -> NDArray[np.float64]:
    """Return for each run how many units it took to alarm; NaN: it never did."""
    counts = np.cumsum(np.random.default_rng(3).binomial(STEP, share, (RUNS, LOOKS)), axis=1)
    totals = STEP * np.arange(1, LOOKS + 1)
    alarms = bayes_p(np.stack([counts, totals - counts], axis=-1), (0.5, 0.5)) < 0.01
    return np.where(alarms.any(axis=1), totals[alarms.argmax(axis=1)], np.nan)


def test_fair_shares_hardly_ever_alarm_however_often_one_looks() -> None:
    assert np.mean(~np.isnan(first_alarms(0.5))) < 0.01


def test_a_loss_is_found() -> None:
    found = first_alarms(0.48)
    assert np.mean(~np.isnan(found)) > 0.95
    # Measured for this design: 7375.
    assert 6500 < np.nanmedian(found) < 8500


def test_the_bayes_factor_of_two_arms_is_the_beta_binomials() -> None:
    counts = (620, 380)
    log = betaln(50 + counts[0], 50 + counts[1]) - betaln(50, 50) + 1000 * np.log(2)
    assert float(bayes_p(counts, (1, 1))) == pytest.approx(np.exp(-log), rel=1e-9)


def test_nothing_seen_is_no_mismatch() -> None:
    assert float(bayes_p((0, 0, 0), (0.2, 0.3, 0.5))) == 1.0
    assert chi_square_p((0, 0), (0.5, 0.5)) == 1.0


def test_the_chi_square_is_that_of_gbstats() -> None:
    assert chi_square_p((5200, 4800), (0.5, 0.5)) == pytest.approx(6.334248366623988e-05)
    assert chi_square_p((300, 500, 200), (0.4, 0.4, 0.2)) == pytest.approx(1.3887943864964e-11)
