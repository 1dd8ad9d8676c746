"""What the engine tells whoever watches it; always from the engine's thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One model's part in one step."""

    model: str
    forward_s: float
    control_s: float
    rest_s: float
    rows: int  # of logits
    prefill_tokens: int
    decode_rows: int
    running: int  # groups
    waiting: int
    blocks_used: int
    blocks_total: int
    rule_s: Mapping[tuple[str, str], float]  # of control, by the request's label and rule
    fill_s: float = 0.0  # of filling constraints' masks, in part while the model runs


@dataclass(frozen=True, slots=True)
class BlockStats:
    """Where one model's key-value blocks are."""

    used: int  # held by running groups
    free: int
    findable: int  # held by nobody, content kept for whoever shares it
    total: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine as it was after its last step."""

    running: int  # groups
    waiting: int
    waiting_requests: int
    num_steps: int
    blocks: Mapping[str, BlockStats]


class EngineObserver(Protocol):
    """Receives measurements; an implementation must be quick."""

    def step(self, report: StepReport) -> None:
        """One model took part in a step."""
        ...

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        """A stream finished its prompt: its length, and what it did not have to compute."""
        ...

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None:
        """A request ended; the gaps are seconds between the tokens of each of its choices."""
        ...


class NullObserver:
    """Watches nothing."""

    def step(self, report: StepReport) -> None:
        pass

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        pass

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None:
        pass
