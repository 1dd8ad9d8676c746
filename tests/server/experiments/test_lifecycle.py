"""Which step may follow which."""

from collections.abc import Callable

import pytest
from tests.server.experiments.drafts import draft

from bosal_server.experiments import lifecycle
from bosal_server.experiments.errors import InvalidExperiment, WrongState
from bosal_server.experiments.experiment import Experiment, Phase, State

Step = Callable[[Experiment], Experiment]

STEPS: dict[str, Step] = {
    "start": lambda e: lifecycle.started(e, 2.0),
    "pause": lambda e: lifecycle.paused(e, "why"),
    "stop": lambda e: lifecycle.stopped(e, 3.0, "why"),
    "promote": lambda e: lifecycle.promoted(e, 4.0, "steered", "why"),
    "traffic": lambda e: lifecycle.with_coverage(e, 5),
    "phase": lambda e: lifecycle.new_phase(e, 6.0, {"plain": 100_000, "steered": 900_000}),
}
ALLOWED = {
    State.DRAFT: {"start", "stop", "traffic"},
    State.RUNNING: {"pause", "stop", "promote", "traffic", "phase"},
    State.PAUSED: {"start", "stop", "promote", "traffic", "phase"},
    State.STOPPED: {"promote"},
    State.PROMOTED: set(),
}


def at(state: State) -> Experiment:
    return draft(phases=(Phase(number=1, weights_ppm=(500_000, 500_000)),), state=state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_taken_or_refused_by_the_state(state: State, name: str) -> None:
    if name in ALLOWED[state]:
        STEPS[name](at(state))
        return
    with pytest.raises(WrongState, match=state) as failure:
        STEPS[name](at(state))
    assert failure.value.code == "FAILED_PRECONDITION"


def test_a_life() -> None:
    running = STEPS["start"](at(State.DRAFT))
    assert (running.state, running.phase.start) == (State.RUNNING, 2.0)
    paused = STEPS["pause"](running)
    assert (paused.state, paused.state_reason) == (State.PAUSED, "why")
    again = STEPS["start"](paused)
    assert (again.state, again.state_reason, again.phase.start) == (State.RUNNING, "", 2.0)
    second = STEPS["phase"](again)
    first, current = second.phases
    assert (first.end, current.number, current.start) == (6.0, 2, 6.0)
    assert current.weights_ppm == (100_000, 900_000)
    over = STEPS["promote"](second)
    assert (over.state, over.promoted_variant, over.phase.end) == (State.PROMOTED, "steered", 4.0)


@pytest.mark.parametrize("weights", [{"plain": 1_000_000}, {"plain": 1, "steered": 2}, {"pl": 1}])
def test_a_phase_needs_weights_that_make_a_whole(weights: dict[str, int]) -> None:
    with pytest.raises(InvalidExperiment) as failure:
        lifecycle.new_phase(at(State.RUNNING), 1.0, weights)
    assert failure.value.field == "weights_ppm"


def test_an_unknown_variant_cannot_win() -> None:
    with pytest.raises(InvalidExperiment, match="did you mean 'steered'"):
        lifecycle.promoted(at(State.RUNNING), 1.0, "steer", "")
