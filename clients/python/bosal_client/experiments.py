"""Calls about experiments: `client.experiments`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bosal.v1 import experiment_pb2 as pb
from bosal_client import experiment_calls as calls
from bosal_client import experiment_results as results
from bosal_client.calls import Call
from bosal_client.experiment_calls import Change, Outcome, StreamCall
from bosal_client.mirror import read

__all__ = ["Experiments", "Outcome"]

Result = TypeVar("Result")


class Experiments:
    """Makes, changes, watches and reports experiments; changes are signed with `actor`."""

    def __init__(
        self,
        run: Callable[[Call[Any]], Any],
        stream: Callable[[StreamCall], Iterator[Any]],
        actor: str = "",
    ) -> None:
        self._run_call = run
        self._stream = stream
        self.actor = actor

    def create(self, document: Mapping[str, Any]) -> results.Experiment:
        """Keep an experiment as a draft; see `experiment_documents` for its fields."""
        return self._run(calls.create(document, self.actor))

    def start(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """Begin to enrol units, or go on after a pause."""
        return self._run(calls.step("StartExperiment", self._change(name, etag, reason)))

    def pause(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """Serve the control to everybody for now."""
        return self._run(calls.step("PauseExperiment", self._change(name, etag, reason)))

    def stop(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """End an experiment; the control is served under its name."""
        return self._run(calls.step("StopExperiment", self._change(name, etag, reason)))

    def promote(
        self,
        name: str,
        variant: str,
        *,
        etag: str = "",
        reason: str = "",
        override_reason: str = "",
    ) -> results.Experiment:
        """End an experiment and serve one variant to everybody under its name."""
        change = self._change(name, etag, reason)
        return self._run(calls.promote(change, variant, override_reason))

    def update_traffic(
        self, name: str, coverage: float, *, etag: str = "", reason: str = ""
    ) -> results.Experiment:
        """Enrol another share of the units."""
        return self._run(calls.update_traffic(self._change(name, etag, reason), coverage))

    def new_phase(
        self, name: str, weights: Mapping[str, float], *, etag: str = "", reason: str = ""
    ) -> results.Experiment:
        """Give variants new weights and units new places."""
        return self._run(calls.new_phase(self._change(name, etag, reason), weights))

    def assign(self, name: str, unit: str) -> results.Assignment:
        """Return what a unit would be served; nothing is recorded."""
        return self._run(calls.assign(name, unit))

    def record(self, name: str, outcomes: Sequence[Outcome]) -> list[results.OutcomeResult]:
        """Record outcomes; each has a result of its own, in their order."""
        return self._run(calls.record(name, outcomes))

    def get(self, name: str) -> results.Experiment:
        return self._run(calls.get(name))

    def every(self) -> list[results.Experiment]:
        """Return every experiment, by name."""
        found, token = self._run(calls.list_page(""))
        while token:
            page, token = self._run(calls.list_page(token))
            found += page
        return found

    def report(
        self, name: str, *, phase: int = 0, with_distributions: bool = False
    ) -> results.Report:
        """Say what is known of a phase; 0 is the current one."""
        return self._run(calls.report(name, phase, with_distributions))

    def watch(self, name: str, *, interval: float = 2.0) -> Iterator[results.Report]:
        """Yield a report at once, then whenever it has changed."""
        for response in self._stream(calls.watch(name, interval)):
            yield read(results.Report, response.report)

    def plan(
        self,
        name: str = "",
        *,
        effect: float,
        deviation: float | None = None,
        rate: float | None = None,
        method: str = "",
        alpha: float | None = None,
        power: float | None = None,
    ) -> results.Plan:
        """Return how many units show an effect; what is not given is taken from experiment `name`.

        `deviation` is the metric's standard deviation over units; for a proportion give its `rate`.
        """
        return self._run(
            calls.plan(
                name,
                effect=effect,
                deviation=deviation,
                rate=rate,
                method=method,
                alpha=alpha,
                power=power,
            )
        )

    def audit(self, name: str = "") -> Iterator[results.AuditEvent]:
        """Yield who changed what and why, the newest first."""
        page, token = self._run(calls.audit_page(name, ""))
        yield from page
        while token:
            page, token = self._run(calls.audit_page(name, token))
            yield from page

    def delete_unit(self, unit: str, name: str = "") -> results.Removed:
        """Remove all that is known of a unit, from one experiment or (name "") from all."""
        return self._run(calls.delete_unit(unit, name, self.actor))

    def export(self, name: str, *, phase: int = 0) -> Iterator[pb.ExportRecordsResponse]:
        """Yield what was recorded, a page at a time: exposures, then outcomes, then pairs."""
        yield from self._stream(calls.export(name, phase))

    def _change(self, name: str, etag: str, reason: str) -> Change:
        return Change(name=name, actor=self.actor, etag=etag, reason=reason)

    def _run(self, call: Call[Result]) -> Result:
        found: Result = self._run_call(call)
        return found
