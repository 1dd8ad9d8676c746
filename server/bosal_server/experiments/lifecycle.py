"""An experiment's life as pure steps: what may follow what, and what it changes."""

from collections.abc import Mapping, Sequence

from bosal_server.experiments.assignment import PPM
from bosal_server.experiments.definition import check_weights
from bosal_server.experiments.errors import InvalidExperiment, WrongState
from bosal_server.experiments.experiment import Experiment, Phase, State

__all__ = ["new_phase", "paused", "promoted", "started", "stopped", "with_coverage"]


def started(experiment: Experiment, now: float, acknowledged: Sequence[str] = ()) -> Experiment:
    """Begin, or go on after a pause; the guardrails named pause the current phase no more."""
    _require(experiment, "start", State.DRAFT, State.PAUSED)
    for place, name in enumerate(acknowledged):
        if name not in experiment.guardrails:
            field = f"acknowledged_guardrails[{place}]"
            raise InvalidExperiment.unknown(field, "guardrail", name, experiment.guardrails)
    borne = sorted({*experiment.acknowledged_guardrails, *acknowledged})
    phases = experiment.phases
    if experiment.state is State.DRAFT:
        phases = (phases[0].model_copy(update={"start": now}), *phases[1:])
    return experiment.model_copy(
        update={
            "state": State.RUNNING,
            "phases": phases,
            "state_reason": "",
            "acknowledged_guardrails": tuple(borne),
        }
    )


def paused(experiment: Experiment, reason: str) -> Experiment:
    _require(experiment, "pause", State.RUNNING)
    return experiment.model_copy(update={"state": State.PAUSED, "state_reason": reason})


def stopped(experiment: Experiment, now: float, reason: str) -> Experiment:
    _require(experiment, "stop", State.DRAFT, State.RUNNING, State.PAUSED)
    return _ended(experiment, now, State.STOPPED, reason)


def promoted(experiment: Experiment, now: float, variant: str, reason: str) -> Experiment:
    """End and serve one variant to everybody."""
    _require(experiment, "promote", State.RUNNING, State.PAUSED, State.STOPPED)
    if variant not in experiment.by_key:
        raise InvalidExperiment.unknown("variant", "variant", variant, experiment.by_key)
    ended = _ended(experiment, now, State.PROMOTED, reason)
    return ended.model_copy(update={"promoted_variant": variant})


def with_coverage(experiment: Experiment, coverage_ppm: int) -> Experiment:
    """Enrol more or fewer units; nobody changes the variant."""
    _require(experiment, "change the traffic of", State.DRAFT, State.RUNNING, State.PAUSED)
    if not 0 <= coverage_ppm <= PPM:
        raise InvalidExperiment("coverage_ppm", f"must be from 0 to {PPM}, not {coverage_ppm}")
    return experiment.model_copy(update={"coverage_ppm": coverage_ppm})


def new_phase(experiment: Experiment, now: float, weights: Mapping[str, int]) -> Experiment:
    """Give variants new weights and units new places."""
    _require(experiment, "begin a new phase of", State.RUNNING, State.PAUSED)
    keys = [variant.key for variant in experiment.variants]
    for key in weights:
        if key not in keys:
            raise InvalidExperiment.unknown("weights_ppm", "variant", key, keys)
    numbers = tuple(weights.get(key, 0) for key in keys)
    check_weights(numbers, "weights_ppm")
    current = experiment.phase
    phases = (
        *experiment.phases[:-1],
        current.model_copy(update={"end": now}),
        Phase(number=current.number + 1, weights_ppm=numbers, start=now),
    )
    return experiment.model_copy(update={"phases": phases, "acknowledged_guardrails": ()})


def _ended(experiment: Experiment, now: float, state: State, reason: str) -> Experiment:
    current = experiment.phase
    if current.end is None:
        current = current.model_copy(update={"end": now})
    return experiment.model_copy(
        update={
            "state": state,
            "phases": (*experiment.phases[:-1], current),
            "state_reason": reason,
        }
    )


def _require(experiment: Experiment, action: str, *states: State) -> None:
    if experiment.state not in states:
        raise WrongState(experiment.name, experiment.state, action, states)
