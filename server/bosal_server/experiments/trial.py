"""One request under an experiment: watched to its end, and recorded once."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bosal_decoding.errors import DecodingError
from bosal_decoding.scaffolds import Message
from bosal_server.engine.request import ChoiceEnding, FinishedEvent, FinishReason, TokensEvent
from bosal_server.errors import InternalFault, ServerError
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.held_draws import HeldDraws
from bosal_server.experiments.manager import ExperimentManager

__all__ = ["NO_TRIAL", "ExposedTrial", "Reply", "Trial", "instruction_text", "scores"]

_SATISFIED = frozenset({FinishReason.CONSTRAINT_COMPLETE, FinishReason.CONSTRAINT_CLOSED})
# How a request ends that the server failed at. Others were refused or given up: the same request
# may come again, and is then the same exposure.
_FAILURES = frozenset({"INTERNAL", "DEADLINE_EXCEEDED", "UNKNOWN", "DATA_LOSS"})


class Trial:
    """Watches a request that is no exposure: nothing is recorded."""

    def observe(self, event: object) -> None:
        """Take in an event of the request."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take in the error that ends the request, if one does."""
        yield


NO_TRIAL = Trial()


@dataclass(frozen=True, slots=True)
class Reply:
    """What an exposed request was answered: the first choice's tokens, and what was measured."""

    tokens: tuple[int, ...]
    outcomes: Mapping[str, float]


class ExposedTrial(Trial):
    """Watches a request that is an exposure."""

    def __init__(
        self,
        manager: ExperimentManager,
        assignment: Assignment,
        instruction: str,
        draws: HeldDraws,
        *,
        is_constrained: bool,
        after: Callable[[Reply], None] | None = None,
    ) -> None:
        """Watch; `after` is told the reply when it is whole."""
        self._manager = manager
        self._assignment = assignment
        self._instruction = instruction
        self._draws = draws
        self._is_constrained = is_constrained
        self._after = after
        self._keeps_text = assignment.experiment.text_retention is not None
        self._text: dict[int, list[str]] = {}
        self._tokens: list[int] = []
        self._has_failed = False

    def observe(self, event: object) -> None:
        if isinstance(event, TokensEvent):
            self._draws.note(event)
            if self._keeps_text:
                self._text.setdefault(event.choice, []).append(event.text)
            if self._after is not None and event.choice == 0:
                self._tokens += event.token_ids
        elif isinstance(event, FinishedEvent):
            outcomes = self._outcomes(event)
            self._record(outcomes, event.endings[0].reason)
            if self._after is not None:
                self._after(Reply(tuple(self._tokens), outcomes))

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # What nobody foresaw reaches the client as INTERNAL.
            told = error if isinstance(error, ServerError | DecodingError) else InternalFault
            if told.code in _FAILURES:
                self._record({"failed": 1.0}, told.code)
                self._has_failed = True
            raise
        finally:
            # Of a request that was given up too: the user has seen what came until then. What one
            # side failed at is not known of the other.
            pairs = self._draws.pairs()
            if self._has_failed:
                pairs = [replace(pair, is_touched=True) for pair in pairs]
            if pairs:
                self._manager.pair(self._assignment, pairs)

    def _outcomes(self, event: FinishedEvent) -> dict[str, float]:
        timings, usage = event.timings, event.usage
        outcomes = {
            "ttft_ms": timings.time_to_first_token * 1e3,
            "total_ms": timings.total * 1e3,
            "failed": 0.0,
            **scores(event, is_constrained=self._is_constrained),
        }
        gaps = usage.output_tokens / len(event.endings) - 1
        if gaps > 0:
            outcomes["tpot_ms"] = timings.decode * 1e3 / gaps
        return outcomes | self._draws.doses() | _shifts(event.endings)

    def _record(self, outcomes: dict[str, float], finish_reason: str) -> None:
        text = None
        if self._keeps_text:
            answers = ("".join(parts) for _, parts in sorted(self._text.items()))
            text = (self._instruction, "\n---\n".join(answers))
        self._manager.complete(self._assignment, outcomes, finish_reason, text)


def scores(event: FinishedEvent, *, is_constrained: bool) -> dict[str, float]:
    """Return what a program can tell of answers, whoever has read them or not."""
    endings = event.endings
    found = {
        "output_tokens": float(event.usage.output_tokens),
        "stopped_itself": statistics.fmean(
            one.reason is not FinishReason.MAX_TOKENS for one in endings
        ),
    }
    if is_constrained:
        found["constraint_ok"] = statistics.fmean(one.reason in _SATISFIED for one in endings)
    return found


def _shifts(endings: Sequence[ChoiceEnding]) -> dict[str, float]:
    """Return how often the base by itself would have ranked tokens low, where that is known."""
    found = [one.explanation for one in endings if one.explanation is not None]
    total = sum(one.num_tokens for one in found)
    if not total:
        return {}
    return {"shifted_share": sum(one.shifted_share * one.num_tokens for one in found) / total}


def instruction_text(messages: Sequence[Message]) -> str:
    """Return what the user and the model have said, in one text."""
    if len(messages) == 1:
        return messages[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in messages)
