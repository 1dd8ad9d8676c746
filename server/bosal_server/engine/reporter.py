"""Tells the observer what happened; an observer that fails harms no request."""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final

from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.group import GroupState
from bosal_server.engine.observer import EngineObserver, StepReport
from bosal_server.engine.request import FailedEvent, FinishedEvent
from bosal_server.engine.rule_clock import RuleOf
from bosal_server.engine.scheduler import Scheduler
from bosal_server.engine.scheduler_step import SchedulerStep

_LOG = logging.getLogger(__name__)


class Reporter:
    """Puts the engine's reports together."""

    def __init__(
        self,
        observer: EngineObserver,
        scheduler: Scheduler,
        allocators: Mapping[str, BlockAllocator],
    ) -> None:
        self._observer = observer
        self._scheduler = scheduler
        self._allocators = allocators

    def prefixes(self, step: SchedulerStep) -> None:
        """Report the prompts that the step completes; before the scheduler records it."""
        if not step.prefill_tokens:
            return
        with _HARMLESS:
            for group in step.ready:
                if group.state is GroupState.PREFILLING and not group.is_guiding:
                    for stream in group.streams:
                        self._observer.prefix(
                            stream.model, len(stream.prompt), stream.cached_tokens
                        )

    def step(
        self,
        step: SchedulerStep,
        forward_seconds: Mapping[str, float],
        control_seconds: Mapping[str, float],
        rule_seconds: Mapping[str, Mapping[RuleOf, float]],
        fill_seconds: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Report each model's part; what was neither forward nor control is shared evenly."""
        busy = sum(forward_seconds.values()) + sum(control_seconds.values())
        with _HARMLESS:
            for name, plan in step.plans.items():
                self._observer.step(
                    StepReport(
                        model=name,
                        forward_s=forward_seconds[name],
                        control_s=control_seconds.get(name, 0.0),
                        rest_s=(seconds - busy) / len(step.plans),
                        rows=len(plan.logits_rows),
                        prefill_tokens=step.prefill_tokens[name],
                        decode_rows=step.decode_rows[name],
                        running=self._scheduler.num_running,
                        waiting=self._scheduler.num_waiting,
                        blocks_used=self._allocators[name].num_held,
                        blocks_total=self._allocators[name].num_blocks,
                        rule_s=rule_seconds.get(name, {}),
                        fill_s=fill_seconds.get(name, 0.0),
                    )
                )

    def finished(self, active: ActiveRequest, event: FinishedEvent | FailedEvent) -> None:
        with _HARMLESS:
            self._observer.finished(active.request, event, active.token_gaps)


class _Harmless:
    """A context manager without a generator: every step enters it twice."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            _LOG.error("the engine's observer failed", exc_info=error)
        return isinstance(error, Exception)


_HARMLESS: Final = _Harmless()
