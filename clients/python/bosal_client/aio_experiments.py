"""Calls about experiments without blocking: `client.experiments` of the asynchronous client."""

# ruff: noqa: ASYNC109  `timeout` goes to the server as the call's deadline.

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from bosal.v1 import experiment_pb2 as pb
from bosal_client import experiment_calls as calls
from bosal_client import experiment_results as results
from bosal_client.calls import Call
from bosal_client.experiment_calls import Outcome, Signed, StreamCall
from bosal_client.mirror import read

__all__ = ["AsyncExperiments"]

Result = TypeVar("Result")


class AsyncExperiments(Signed):
    """Makes, changes, watches and reports experiments; changes are signed with `actor`.

    Every call takes `timeout` in seconds; None waits as long as it takes.
    """

    def __init__(
        self,
        run: Callable[[Call[Any], float | None], Awaitable[Any]],
        stream: Callable[[StreamCall, float | None], AsyncIterator[Any]],
        actor: str = "",
    ) -> None:
        super().__init__(actor)
        self._run_call = run
        self._stream = stream

    async def create(
        self, document: Mapping[str, Any], *, timeout: float | None = None
    ) -> results.Experiment:
        """Keep an experiment as a draft; see `experiment_documents` for its fields."""
        return await self._run(calls.create(document, self.actor), timeout)

    async def start(
        self,
        name: str,
        *,
        acknowledged_guardrails: Sequence[str] = (),
        etag: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> results.Experiment:
        """Begin to enrol units, or go on after a pause.

        While a guardrail is broken it is refused, unless that is acknowledged by its name.
        """
        change = self._change(name, etag, reason)
        return await self._run(calls.start(change, acknowledged_guardrails), timeout)

    async def pause(
        self, name: str, *, etag: str = "", reason: str = "", timeout: float | None = None
    ) -> results.Experiment:
        """Serve the control to everybody for now."""
        return await self._run(
            calls.step("PauseExperiment", self._change(name, etag, reason)), timeout
        )

    async def stop(
        self, name: str, *, etag: str = "", reason: str = "", timeout: float | None = None
    ) -> results.Experiment:
        """End an experiment; the control is served under its name."""
        return await self._run(
            calls.step("StopExperiment", self._change(name, etag, reason)), timeout
        )

    async def promote(
        self,
        name: str,
        variant: str,
        *,
        etag: str = "",
        reason: str = "",
        override_reason: str = "",
        timeout: float | None = None,
    ) -> results.Experiment:
        """End an experiment and serve one variant to everybody under its name."""
        change = self._change(name, etag, reason)
        return await self._run(calls.promote(change, variant, override_reason), timeout)

    async def update_traffic(
        self,
        name: str,
        coverage: float,
        *,
        etag: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> results.Experiment:
        """Enrol another share of the units."""
        return await self._run(
            calls.update_traffic(self._change(name, etag, reason), coverage), timeout
        )

    async def new_phase(
        self,
        name: str,
        weights: Mapping[str, float],
        *,
        etag: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> results.Experiment:
        """Give variants new weights and units new places."""
        return await self._run(calls.new_phase(self._change(name, etag, reason), weights), timeout)

    async def assign(
        self, name: str, unit: str, *, timeout: float | None = None
    ) -> results.Assignment:
        """Return what a unit would be served; nothing is recorded."""
        return await self._run(calls.assign(name, unit), timeout)

    async def record(
        self, name: str, outcomes: Sequence[Outcome], *, timeout: float | None = None
    ) -> list[results.OutcomeResult]:
        """Record outcomes; each has a result of its own, in their order."""
        return await self._run(calls.record(name, outcomes), timeout)

    async def get(self, name: str, *, timeout: float | None = None) -> results.Experiment:
        return await self._run(calls.get(name), timeout)

    async def every(self, *, timeout: float | None = None) -> list[results.Experiment]:
        """Return every experiment, by name."""
        found, token = await self._run(calls.list_page(""), timeout)
        while token:
            page, token = await self._run(calls.list_page(token), timeout)
            found += page
        return found

    async def report(
        self,
        name: str,
        *,
        phase: int = 0,
        with_distributions: bool = False,
        timeout: float | None = None,
    ) -> results.Report:
        """Say what is known of a phase; 0 is the current one."""
        return await self._run(calls.report(name, phase, with_distributions), timeout)

    async def watch(
        self, name: str, *, interval: float = 2.0, timeout: float | None = None
    ) -> AsyncIterator[results.Report]:
        """Yield a report at once, then whenever it has changed."""
        async for response in self._stream(calls.watch(name, interval), timeout):
            yield read(results.Report, response.report)

    async def plan(
        self,
        name: str = "",
        *,
        effect: float,
        deviation: float | None = None,
        rate: float | None = None,
        method: str = "",
        alpha: float | None = None,
        power: float | None = None,
        timeout: float | None = None,
    ) -> results.Plan:
        """Return how many units show an effect; what is not given is taken from experiment `name`.

        `deviation` is the metric's standard deviation over units; for a proportion give its `rate`.
        """
        return await self._run(
            calls.plan(
                name,
                effect=effect,
                deviation=deviation,
                rate=rate,
                method=method,
                alpha=alpha,
                power=power,
            ),
            timeout,
        )

    async def audit(
        self, name: str = "", *, timeout: float | None = None
    ) -> AsyncIterator[results.AuditEvent]:
        """Yield who changed what and why, the newest first."""
        page, token = await self._run(calls.audit_page(name, ""), timeout)
        for one in page:
            yield one
        while token:
            page, token = await self._run(calls.audit_page(name, token), timeout)
            for one in page:
                yield one

    async def delete_unit(
        self, unit: str, name: str = "", *, timeout: float | None = None
    ) -> results.Removed:
        """Remove all that is known of a unit, from one experiment or (name "") from all."""
        return await self._run(calls.delete_unit(unit, name, self.actor), timeout)

    async def export(
        self, name: str, *, phase: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.ExportRecordsResponse]:
        """Yield what was recorded, a page at a time: exposures, then outcomes, then pairs."""
        async for page in self._stream(calls.export(name, phase), timeout):
            yield page

    async def _run(self, call: Call[Result], timeout: float | None) -> Result:
        found: Result = await self._run_call(call, timeout)
        return found
