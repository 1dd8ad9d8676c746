"""What a decode step of the engine is made of."""

from collections.abc import Sequence
from statistics import median
from time import perf_counter

from bosal_server.engine.observer import StepReport
from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent


class DecodeClock:
    """An observer that times the steps in which every row decodes.

    A step lasts from one report to the next: scheduling, forward pass, control, text and delivery.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        # Seconds of a step, and of its forward pass.
        self._steps: list[tuple[float, float]] = []

    def step(self, report: StepReport) -> None:
        now = perf_counter()
        if self._last is not None and report.prefill_tokens == 0:
            self._steps.append((now - self._last, report.forward_s))
        # The next step's begin, unless the one after it may have waited for work.
        self._last = now if report.prefill_tokens == 0 else None

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None: ...

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None: ...

    def reset(self) -> None:
        """Forget what was seen."""
        self._steps, self._last = [], None

    def take(self) -> tuple[float, float]:
        """Return the median step's seconds and the median share that is not the forward pass."""
        steps = self._steps
        self.reset()
        return (
            median(whole for whole, _ in steps),
            median(1 - forward / whole for whole, forward in steps),
        )
