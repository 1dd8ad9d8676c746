"""Calls about experiments: `client.experiments`."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from bosal.v1 import experiment_pb2 as pb
from bosal_client import experiment_results as results
from bosal_client.calls import Call
from bosal_client.experiment_documents import experiment_message
from bosal_client.mirror import read

__all__ = ["Experiments", "Outcome"]

_SERVICE = "/bosal.v1.ExperimentService/"
_STEP = {
    "StartExperiment": (pb.StartExperimentRequest, pb.StartExperimentResponse),
    "PauseExperiment": (pb.PauseExperimentRequest, pb.PauseExperimentResponse),
    "StopExperiment": (pb.StopExperimentRequest, pb.StopExperimentResponse),
}

Result = TypeVar("Result")
Run = Callable[[Call[Any]], Any]
Stream = Callable[[str, Message, type[Message]], Iterator[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Something that happened after an exposure; it names the exposure or the unit."""

    name: str
    value: float | bool
    exposure_id: str = ""
    unit: str = ""
    # "": one outcome of this name for each exposure.
    idempotency_key: str = ""
    at: datetime | None = None

    def message(self) -> pb.Outcome:
        message = pb.Outcome(name=self.name, idempotency_key=self.idempotency_key)
        if self.exposure_id:
            message.exposure_id = self.exposure_id
        elif self.unit:
            message.unit_id = self.unit
        if isinstance(self.value, bool):
            message.truth = self.value
        else:
            message.number = self.value
        if self.at is not None:
            message.at.FromDatetime(self.at)
        return message


class Experiments:
    """Makes, changes, watches and reports experiments; changes are signed with `actor`."""

    def __init__(self, run: Run, stream: Stream, actor: str = "") -> None:
        self._run = run
        self._streamed = stream
        self.actor = actor

    def create(self, document: Mapping[str, Any]) -> results.Experiment:
        """Keep an experiment as a draft; see `experiment_documents` for its fields."""
        request = pb.CreateExperimentRequest(
            experiment=experiment_message(document), request_id=uuid.uuid4().hex, actor=self.actor
        )
        return self._experiment("CreateExperiment", request, pb.CreateExperimentResponse)

    def start(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """Begin to enrol units, or go on after a pause."""
        return self._step("StartExperiment", name, etag, reason)

    def pause(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """Serve the control to everybody for now."""
        return self._step("PauseExperiment", name, etag, reason)

    def stop(self, name: str, *, etag: str = "", reason: str = "") -> results.Experiment:
        """End an experiment; the control is served under its name."""
        return self._step("StopExperiment", name, etag, reason)

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
        request = pb.PromoteVariantRequest(
            change=self._change(name, etag, reason),
            variant=variant,
            override_reason=override_reason,
        )
        return self._experiment("PromoteVariant", request, pb.PromoteVariantResponse)

    def update_traffic(
        self, name: str, coverage: float, *, etag: str = "", reason: str = ""
    ) -> results.Experiment:
        """Enrol another share of the units."""
        request = pb.UpdateTrafficRequest(
            change=self._change(name, etag, reason), coverage_ppm=round(coverage * 1_000_000)
        )
        return self._experiment("UpdateTraffic", request, pb.UpdateTrafficResponse)

    def new_phase(
        self, name: str, weights: Mapping[str, float], *, etag: str = "", reason: str = ""
    ) -> results.Experiment:
        """Give variants new weights and units new places."""
        request = pb.NewPhaseRequest(
            change=self._change(name, etag, reason),
            weights_ppm={key: round(weight * 1_000_000) for key, weight in weights.items()},
        )
        return self._experiment("NewPhase", request, pb.NewPhaseResponse)

    def assign(self, name: str, unit: str) -> results.Assignment:
        """Return what a unit would be served; nothing is recorded."""
        request = pb.AssignRequest(experiment=name, unit_id=unit)
        return self._call(
            "Assign",
            request,
            pb.AssignResponse,
            lambda response: read(results.Assignment, response.assignment),
        )

    def record(self, name: str, outcomes: Sequence[Outcome]) -> list[results.OutcomeResult]:
        """Record outcomes; each has a result of its own, in their order."""
        request = pb.RecordOutcomesRequest(
            experiment=name, outcomes=[one.message() for one in outcomes]
        )
        return self._call(
            "RecordOutcomes",
            request,
            pb.RecordOutcomesResponse,
            lambda response: [read(results.OutcomeResult, one) for one in response.results],
        )

    def get(self, name: str) -> results.Experiment:
        return self._experiment(
            "GetExperiment", pb.GetExperimentRequest(name=name), pb.GetExperimentResponse
        )

    def every(self) -> list[results.Experiment]:
        """Return every experiment, by name."""
        found: list[results.Experiment] = []
        token = ""
        while True:
            page, token = self._call(
                "ListExperiments",
                pb.ListExperimentsRequest(page_token=token),
                pb.ListExperimentsResponse,
                lambda r: ([read(results.Experiment, e) for e in r.experiments], r.next_page_token),
            )
            found += page
            if not token:
                return found

    def report(
        self, name: str, *, phase: int = 0, with_distributions: bool = False
    ) -> results.Report:
        """Say what is known of a phase; 0 is the current one."""
        request = pb.GetReportRequest(name=name, phase=phase, with_distributions=with_distributions)
        return self._call(
            "GetReport",
            request,
            pb.GetReportResponse,
            lambda response: read(results.Report, response.report),
        )

    def watch(self, name: str, *, interval: float = 2.0) -> Iterator[results.Report]:
        """Yield a report at once, then whenever it has changed."""
        request = pb.StreamReportRequest(name=name)
        request.min_interval.FromNanoseconds(int(interval * 1e9))
        for response in self._stream("StreamReport", request, pb.StreamReportResponse):
            yield read(results.Report, response.report)

    def audit(self, name: str = "") -> Iterator[results.AuditEvent]:
        """Yield who changed what and why, the newest first."""
        token = ""
        while True:
            page, token = self._call(
                "ListAuditEvents",
                pb.ListAuditEventsRequest(experiment=name, page_token=token),
                pb.ListAuditEventsResponse,
                lambda r: ([read(results.AuditEvent, e) for e in r.events], r.next_page_token),
            )
            yield from page
            if not token:
                return

    def delete_unit(self, unit: str, name: str = "") -> results.Removed:
        """Remove all that is known of a unit, from one experiment or (name "") from all."""
        request = pb.DeleteUnitRequest(unit_id=unit, experiment=name, actor=self.actor)
        return self._call(
            "DeleteUnit",
            request,
            pb.DeleteUnitResponse,
            lambda response: read(results.Removed, response),
        )

    def export(self, name: str, *, phase: int = 0) -> Iterator[pb.ExportRecordsResponse]:
        """Yield what was recorded, a page at a time, exposures first."""
        request = pb.ExportRecordsRequest(name=name, phase=phase)
        return self._stream("ExportRecords", request, pb.ExportRecordsResponse)

    def _change(self, name: str, etag: str, reason: str) -> pb.Change:
        return pb.Change(name=name, etag=etag, actor=self.actor, reason=reason)

    def _step(self, method: str, name: str, etag: str, reason: str) -> results.Experiment:
        request, response = _STEP[method]
        return self._experiment(method, request(change=self._change(name, etag, reason)), response)

    def _experiment(
        self, method: str, request: Message, response: type[Message]
    ) -> results.Experiment:
        return self._call(
            method, request, response, lambda message: read(results.Experiment, message.experiment)
        )

    def _call(
        self,
        method: str,
        request: Message,
        response: type[Message],
        reader: Callable[[Any], Result],
    ) -> Result:
        found: Result = self._run(Call(_SERVICE + method, request, response, reader))
        return found

    def _stream(self, method: str, request: Message, response: type[Any]) -> Iterator[Any]:
        return self._streamed(_SERVICE + method, request, response)
