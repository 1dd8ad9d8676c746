"""What a unit is served, and why."""

from typing import Any

import pytest
from tests.server.experiments.drafts import draft, space

from bosal_server.experiments.assignment import bucket, namespace_bucket
from bosal_server.experiments.enrolment import Assignment, Reason, assign
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import Phase, State
from bosal_server.experiments.records import Entry

UNITS = [f"user-{index}" for index in range(400)]


def assigned(unit: str, force: str = "", **fields: Any) -> Assignment:
    phases = (Phase(number=1, weights_ppm=(500_000, 500_000)),)
    defaults = {"phases": phases, "state": State.RUNNING}
    return assign(Entry(1, draft("exp_a", **{**defaults, **fields})), unit, force)


def test_the_hash_decides() -> None:
    assert assigned("user-1").variant.key == "plain"
    assert assigned("user-2").variant.key == "steered"
    assert assigned("user-2").reason is Reason.ASSIGNED
    for unit in UNITS:
        expected = "plain" if bucket("exp_a:1", unit) < 500_000 else "steered"
        assert assigned(unit).variant.key == expected


def test_a_new_phase_is_a_new_draw() -> None:
    second = (
        Phase(number=1, weights_ppm=(500_000, 500_000)),
        Phase(number=2, weights_ppm=(900_000, 100_000)),
    )
    assert assigned("user-1", phases=second).variant.key == "plain"
    moved = [unit for unit in UNITS if assigned(unit, phases=second).variant.key == "steered"]
    assert 20 < len(moved) < 60
    assert any(assigned(unit).variant.key == "plain" for unit in moved)


def test_ramping_up_moves_nobody_who_is_in() -> None:
    at_tenth = {unit: assigned(unit, coverage_ppm=100_000) for unit in UNITS}
    inside = {unit: a for unit, a in at_tenth.items() if a.reason is Reason.ASSIGNED}
    assert 20 < len(inside) < 60
    for unit, a in at_tenth.items():
        if unit in inside:
            assert assigned(unit, coverage_ppm=500_000).variant == a.variant
        else:
            assert (a.variant.key, a.reason) == ("plain", Reason.NOT_IN_COVERAGE)


def test_a_namespace_gives_a_unit_to_one_experiment_alone() -> None:
    low = {u for u in UNITS if assigned(u, namespace=space(0, 500_000)).is_recorded}
    high = {u for u in UNITS if assigned(u, namespace=space(500_000, 1_000_000)).is_recorded}
    assert low == {unit for unit in UNITS if namespace_bucket("layer", unit) < 500_000}
    assert low.isdisjoint(high)
    assert low | high == set(UNITS)
    outside = assigned(next(iter(high)), namespace=space(0, 500_000))
    assert (outside.variant.key, outside.reason) == ("plain", Reason.EXCLUDED_NAMESPACE)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.DRAFT, Reason.NOT_STARTED),
        (State.PAUSED, Reason.PAUSED),
        (State.STOPPED, Reason.STOPPED),
    ],
)
def test_without_an_experiment_running_the_control_is_served(state: State, reason: Reason) -> None:
    found = assigned("user-2", state=state)
    assert (found.variant.key, found.reason, found.is_recorded) == ("plain", reason, False)


def test_the_winner_is_served_to_all() -> None:
    fields = {"state": State.PROMOTED, "promoted_variant": "steered"}
    for unit in UNITS[:20]:
        found = assigned(unit, **fields)
        assert (found.variant.key, found.reason) == ("steered", Reason.PROMOTED)
        assert not found.is_recorded


def test_a_variant_can_be_forced() -> None:
    found = assigned("user-1", "steered")
    assert (found.variant.key, found.reason) == ("steered", Reason.FORCED)
    with pytest.raises(InvalidExperiment, match="did you mean 'steered'"):
        assigned("user-1", "steerd")


@pytest.mark.parametrize("unit", ["", "u" * 257, "ü" * 129])
def test_a_unit_has_a_name_of_bounded_length(unit: str) -> None:
    with pytest.raises(InvalidExperiment) as failure:
        assigned(unit)
    assert failure.value.field == "unit_id"
