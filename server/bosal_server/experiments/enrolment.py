"""What a request is served under an experiment, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bosal_server.experiments import assignment
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import Experiment, State, Variant
from bosal_server.experiments.records import Entry

__all__ = ["Assignment", "Reason", "assign"]

_MAX_UNIT_BYTES = 256


class Reason(StrEnum):
    """Why a request is served the variant it is served; the wire's names."""

    ASSIGNED = "ASSIGNED"
    NOT_IN_COVERAGE = "NOT_IN_COVERAGE"
    EXCLUDED_NAMESPACE = "EXCLUDED_NAMESPACE"
    FORCED = "FORCED"
    NOT_STARTED = "NOT_STARTED"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    PROMOTED = "PROMOTED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


_NOT_RUNNING = {
    State.DRAFT: Reason.NOT_STARTED,
    State.PAUSED: Reason.PAUSED,
    State.STOPPED: Reason.STOPPED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A variant for a request."""

    entry: Entry
    unit: str
    variant: Variant
    reason: Reason
    # b"": no exposure.
    exposure_id: bytes = b""

    @property
    def experiment(self) -> Experiment:
        return self.entry.experiment

    @property
    def phase(self) -> int:
        return self.experiment.phase.number

    @property
    def is_recorded(self) -> bool:
        """Whether there is to be an exposure."""
        return self.reason in (Reason.ASSIGNED, Reason.FORCED)

    @property
    def is_held(self) -> bool:
        """Whether its draws are held against other variants'."""
        experiment = self.experiment
        is_shadow = self.variant in experiment.shadows
        return is_shadow or (self.is_recorded and experiment.measures_dose)

    @property
    def label(self) -> str:
        """What metrics call the variant."""
        return f"{self.experiment.name}/{self.variant.key}"

    def exposed(self, exposure_id: bytes) -> "Assignment":
        return Assignment(
            entry=self.entry,
            unit=self.unit,
            variant=self.variant,
            reason=self.reason,
            exposure_id=exposure_id,
        )

    def unavailable(self) -> "Assignment":
        """Return what is served when the exposure cannot be kept."""
        return replace(
            self, variant=self.experiment.control, reason=Reason.STORE_UNAVAILABLE, exposure_id=b""
        )


def assign(entry: Entry, unit: str, force_variant: str = "") -> Assignment:
    """Return what the unit is served; a pure function of the experiment and the unit.

    Raises:
        InvalidExperiment: the unit has no name, or one too long; there is no such variant.
    """
    experiment = entry.experiment
    if not unit:
        raise InvalidExperiment("unit_id", "whom is it for?")
    if len(unit) > _MAX_UNIT_BYTES or len(unit.encode()) > _MAX_UNIT_BYTES:
        raise InvalidExperiment("unit_id", f"must have at most {_MAX_UNIT_BYTES} bytes")
    if force_variant:
        variant = experiment.by_key.get(force_variant)
        if variant is None:
            raise InvalidExperiment.unknown(
                "force_variant", "variant", force_variant, experiment.by_key
            )
        return Assignment(entry=entry, unit=unit, variant=variant, reason=Reason.FORCED)
    variant, reason = _assigned(experiment, unit)
    return Assignment(entry=entry, unit=unit, variant=variant, reason=reason)


def _assigned(experiment: Experiment, unit: str) -> tuple[Variant, Reason]:
    if experiment.state is State.PROMOTED:
        return experiment.by_key[experiment.promoted_variant], Reason.PROMOTED
    if experiment.state is not State.RUNNING:
        return experiment.control, _NOT_RUNNING[experiment.state]
    space = experiment.namespace
    if space is not None:
        place = assignment.namespace_bucket(space.name, unit)
        if not space.low_ppm <= place < space.high_ppm:
            return experiment.control, Reason.EXCLUDED_NAMESPACE
    phase = experiment.phase
    index = _arm(experiment.name, phase.number, phase.weights_ppm, experiment.coverage_ppm, unit)
    if index is None:
        return experiment.control, Reason.NOT_IN_COVERAGE
    return experiment.variants[index], Reason.ASSIGNED


def _arm(name: str, phase: int, weights: Sequence[int], coverage_ppm: int, unit: str) -> int | None:
    place = assignment.bucket(assignment.salt(name, phase), unit)
    return assignment.arm(place, weights, coverage_ppm)
