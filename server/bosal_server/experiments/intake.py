"""Outcomes as clients send them: each checked by itself, none by another's fault refused."""

from dataclasses import dataclass

from bosal_decoding.errors import shorten, suggestion
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import BUILT_IN
from bosal_server.experiments.privacy import ID_BYTES, Pseudonyms, outcome_key
from bosal_server.experiments.records import Outcome, OutcomeStatus

__all__ = ["OutcomeCommand", "OutcomeResult", "check_count", "read_outcome"]

_MAX_OUTCOMES = 1000
_MAX_KEY_CHARS = 128
_MAX_SKEW_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCommand:
    """An outcome as it was sent; one of exposure and unit is given."""

    exposure_id: str | None
    unit: str | None
    name: str
    value: float | None
    key: str
    # Seconds since 1970; None: now.
    at: float | None


@dataclass(frozen=True, slots=True)
class OutcomeResult:
    """What became of it; reason and message of one that was not kept."""

    # None: rejected.
    status: OutcomeStatus | None
    reason: str = ""
    message: str = ""


def check_count(count: int) -> None:
    """Refuse more outcomes than are taken at once."""
    if count > _MAX_OUTCOMES:
        raise InvalidExperiment("outcomes", f"at most {_MAX_OUTCOMES} at once, not {count}")


def read_outcome(
    command: OutcomeCommand, experiment: Experiment, pseudonyms: Pseudonyms, now: float
) -> Outcome | OutcomeResult:
    """Check an outcome; what cannot be kept comes back as its result."""
    if command.name in BUILT_IN:
        return _rejected("INVALID_OUTCOME", f"name: '{command.name}' is recorded by the server")
    metrics = experiment.outcomes.get(command.name)
    if metrics is None:
        known = experiment.outcomes.keys() - BUILT_IN.keys()
        return _rejected(
            "UNKNOWN_METRIC",
            f"name: no metric of '{experiment.name}' is made of {shorten(command.name)}, "
            f"{suggestion(command.name, known)}",
        )
    if command.value is None:
        return _rejected("INVALID_OUTCOME", "value: give a number or a truth")
    try:
        for metric in metrics:
            metric.check_value(command.value, "value")
    except InvalidExperiment as error:
        return _rejected("INVALID_OUTCOME", str(error))
    if len(command.key) > _MAX_KEY_CHARS or not command.key.isprintable():
        return _rejected(
            "INVALID_OUTCOME", f"idempotency_key: at most {_MAX_KEY_CHARS} printable characters"
        )
    exposure, unit = None, None
    if command.exposure_id is not None:
        exposure = _exposure(command.exposure_id)
        if exposure is None:
            return _rejected("INVALID_OUTCOME", "exposure_id: not one that this server gives")
        # As the server writes it, however the client did.
        key = command.key or f"{exposure.hex()} {command.name}"
    elif command.unit:
        if not command.key:
            return _rejected("INVALID_OUTCOME", "idempotency_key: needed beside a unit_id")
        unit = pseudonyms.unit(experiment.name, command.unit)
        key = command.key
    else:
        return _rejected("INVALID_OUTCOME", "target: name an exposure or a unit")
    at = now if command.at is None else command.at
    # Outcomes may be late; none can come from the future, nor from before the experiment.
    is_skewed = not experiment.created - _MAX_SKEW_SECONDS <= at <= now + _MAX_SKEW_SECONDS
    return Outcome(
        key=outcome_key(key),
        exposure=exposure,
        unit=unit,
        name=command.name,
        value=command.value,
        at=now if is_skewed else at,
        is_skewed=is_skewed,
    )


def result(status: OutcomeStatus) -> OutcomeResult:
    """Say what became of an outcome that was told to the store."""
    if status is OutcomeStatus.CONFLICT:
        return _rejected(
            "IDEMPOTENCY_CONFLICT", "idempotency_key: another outcome was recorded under it"
        )
    return OutcomeResult(status)


def _exposure(text: str) -> bytes | None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if len(data) == ID_BYTES else None


def _rejected(reason: str, message: str) -> OutcomeResult:
    return OutcomeResult(None, reason, message)
