"""Sample sizes against simulation and the noncentral t distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from bosal_lab import power
from bosal_lab.evaluation_errors import ArmError
from bosal_server.statistics import intervals


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.03, 0.1), (0.1, 0.3), (0.05, 0.05), (-0.2, 0.5)]
)
def test_the_planned_items_reach_the_power_in_simulation(
    difference: float, discordance: float
) -> None:
    need = power.binary_need(difference=difference, discordance=discordance)
    wins = (discordance + difference) / 2
    rng = np.random.default_rng(0)
    tables = rng.multinomial(need.items, (wins, discordance - wins, 1 - discordance), size=3000)
    found = np.mean(
        [intervals.mcnemar_test(second, first).mid <= 0.05 for second, first, _ in tables]
    )
    assert need.power >= 0.8
    assert found == pytest.approx(need.power, abs=4 * math.sqrt(0.16 / 3000))
    assert need.discordant == pytest.approx(need.items * discordance)


def test_fewer_items_have_less_power() -> None:
    need = power.binary_need(difference=0.1, discordance=0.3)
    fewer = power.binary_power(need.items // 2, difference=0.1, discordance=0.3, alpha=0.05)
    assert fewer < 0.6


def test_the_power_at_no_difference_is_the_level() -> None:
    level = power.binary_power(500, difference=0.0, discordance=0.2, alpha=0.05)
    assert 0.03 < level < 0.055


def test_means_need_what_the_noncentral_t_says() -> None:
    need = power.mean_need(difference=0.03, deviation=0.3)

    def reached(items: int) -> float:
        limit = stats.t.isf(0.025, items - 1)
        shift = 0.1 * math.sqrt(items)
        return float(
            stats.nct.sf(limit, items - 1, shift) + stats.nct.cdf(-limit, items - 1, shift)
        )

    assert need.power == pytest.approx(reached(need.items), abs=1e-6)
    assert reached(need.items - 1) < 0.8 <= reached(need.items)


@pytest.mark.parametrize("discordance", [0.01, 1.5])
def test_an_impossible_discordance_is_refused(discordance: float) -> None:
    with pytest.raises(ArmError, match="discordance between 0.05 and 1"):
        power.binary_need(difference=0.05, discordance=discordance)


def test_no_difference_cannot_be_planned_for() -> None:
    with pytest.raises(ArmError):
        power.mean_need(difference=0.0, deviation=1.0)
    with pytest.raises(ArmError):
        power.binary_need(difference=0.0, discordance=0.2)
