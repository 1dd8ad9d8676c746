"""One request under an experiment: watched to its end, and recorded once."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bosal_decoding.scaffolds import Message
from bosal_server.engine.request import ChoiceEnding, FinishedEvent, FinishReason, TokensEvent
from bosal_server.errors import ServerError
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.manager import ExperimentManager

__all__ = ["NO_TRIAL", "ExposedTrial", "Trial", "instruction_text"]

_CUT_OFF = frozenset({FinishReason.MAX_TOKENS, FinishReason.MAX_TIME})
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


class ExposedTrial(Trial):
    """Watches a request that is an exposure."""

    def __init__(
        self,
        manager: ExperimentManager,
        assignment: Assignment,
        instruction: str,
        *,
        is_constrained: bool,
    ) -> None:
        self._manager = manager
        self._assignment = assignment
        self._instruction = instruction
        self._is_constrained = is_constrained
        self._keeps_text = assignment.experiment.text_retention is not None
        self._text: dict[int, list[str]] = {}

    def observe(self, event: object) -> None:
        if isinstance(event, TokensEvent) and self._keeps_text:
            self._text.setdefault(event.choice, []).append(event.text)
        elif isinstance(event, FinishedEvent):
            self._record(self._outcomes(event), event.endings[0].reason)

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except ServerError as error:
            if error.code in _FAILURES:
                self._record({"failed": 1.0}, error.code)
            raise

    def _outcomes(self, event: FinishedEvent) -> dict[str, float]:
        endings, timings = event.endings, event.timings
        outcomes = {
            "ttft_ms": timings.time_to_first_token * 1e3,
            "total_ms": timings.total * 1e3,
            "output_tokens": float(event.usage.output_tokens),
            "stopped_itself": statistics.fmean(one.reason not in _CUT_OFF for one in endings),
            "failed": 0.0,
        }
        gaps = event.usage.output_tokens / len(endings) - 1
        if gaps > 0:
            outcomes["tpot_ms"] = timings.decode * 1e3 / gaps
        if self._is_constrained:
            outcomes["constraint_ok"] = statistics.fmean(
                one.reason in _SATISFIED for one in endings
            )
        return outcomes | _doses(endings)

    def _record(self, outcomes: dict[str, float], finish_reason: str) -> None:
        text = None
        if self._keeps_text:
            answers = ("".join(parts) for _, parts in sorted(self._text.items()))
            text = (self._instruction, "\n---\n".join(answers))
        self._manager.complete(self._assignment, outcomes, finish_reason, text)


def _doses(endings: Sequence[ChoiceEnding]) -> dict[str, float]:
    """Return what the rules did to a request's tokens, where that was measured."""
    found = [one.explanation for one in endings if one.explanation is not None]
    total = sum(one.num_tokens for one in found)
    if not total:
        return {}
    return {
        "shifted_share": sum(one.shifted_share * one.num_tokens for one in found) / total,
        "changed_share": sum(one.num_changed for one in found) / total,
        "kl_dose": sum(one.total_divergence for one in found) / total,
    }


def instruction_text(messages: Sequence[Message]) -> str:
    """Return what the user and the model have said, in one text."""
    if len(messages) == 1:
        return messages[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in messages)
