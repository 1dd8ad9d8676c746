"""What is to be written down, one value for each thing that happened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    "Pair",
    "PairKind",
    "Pairs",
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


class PairKind(StrEnum):
    """How an exposure was held against another variant."""

    # On the request's own rows, token by token.
    HELD = "HELD"
    # Run again under a shadow variant.
    SHADOW = "SHADOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An exposure beside what another variant makes of it under the same noise.

    One of the two is the control, served or not; `variant` is the other.
    """

    kind: PairKind
    # Place among the experiment's arms and, behind them, its shadows.
    variant: int
    # False: it could not be held against the other, or not be run again.
    is_known: bool = True
    # Whether the served text may have been another under the other variant.
    is_touched: bool = True
    # Where the two part; None: nowhere. b"": that text had ended.
    position: int | None = None
    control_token: bytes = b""
    token: bytes = b""
    # The wire's name; "": they are equal.
    cause: str = ""
    rules: tuple[str, ...] = ()
    # What programs measured: of the control, of the variant.
    outcomes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pairs:
    """What one exposure was held against."""

    entry: Entry
    exposure: bytes
    pairs: Sequence[Pair]
    at: float


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
    # By phase and unit.
    units: Sequence[tuple[int, bytes]] = ()


Record = Exposure | Completion | Outcomes | Pairs | Removal | Expiry
