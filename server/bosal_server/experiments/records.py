"""What is to be written down, one value for each thing that happened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bosal_server.experiments.experiment import Experiment

__all__ = [
    "Completion",
    "Entry",
    "Expiry",
    "Exposure",
    "Outcome",
    "OutcomeStatus",
    "Outcomes",
    "Record",
    "Removal",
    "Removed",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment with the number its rows carry."""

    id: int
    experiment: Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A unit is about to be served a variant."""

    entry: Entry
    id: bytes
    phase: int
    unit: bytes
    # Index among the experiment's arms.
    variant: int
    is_forced: bool
    recipe_version: str
    model_digest: str
    seed: int
    instruction_tokens: int
    instruction: bytes
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A request has ended: what the server measured of it."""

    entry: Entry
    exposure: bytes
    outcomes: Mapping[str, float]
    finish_reason: str
    at: float
    # Instruction, answer, and until when they are kept.
    text: tuple[str, str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a client says happened; it names an exposure or a unit."""

    key: bytes
    exposure: bytes | None
    unit: bytes | None
    name: str
    value: float
    at: float
    is_skewed: bool = False


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of one call; answered by a status each."""

    entry: Entry
    outcomes: Sequence[Outcome]


class OutcomeStatus(StrEnum):
    """What became of an outcome."""

    RECORDED = "RECORDED"
    DUPLICATE = "DUPLICATE"
    ORPHAN = "ORPHAN"
    # Another outcome was recorded under its key.
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, slots=True)
class Removal:
    """A unit is to be forgotten; answered by what was removed."""

    entry: Entry
    unit: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows a removal took."""

    exposures: int
    outcomes: int


@dataclass(frozen=True, slots=True)
class Expiry:
    """Rows have been kept for long enough."""

    entry: Entry
    exposures: Sequence[bytes]
    outcome_keys: Sequence[bytes]


Record = Exposure | Completion | Outcomes | Removal | Expiry
