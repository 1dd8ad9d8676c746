"""The calls about experiments that both clients make: what each sends, how its answer is read."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from bosal.v1 import experiment_pb2 as pb
from bosal_client import experiment_results as results
from bosal_client.calls import Call
from bosal_client.experiment_documents import experiment_message, share
from bosal_client.mirror import read

__all__ = ["Outcome", "StreamCall"]

_SERVICE = "/bosal.v1.ExperimentService/"
_STEPS: Mapping[str, tuple[type[Any], type[Message]]] = {
    "PauseExperiment": (pb.PauseExperimentRequest, pb.PauseExperimentResponse),
    "StopExperiment": (pb.StopExperimentRequest, pb.StopExperimentResponse),
}

Result = TypeVar("Result")
Page = tuple[list[Result], str]


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


@dataclass(frozen=True, slots=True)
class StreamCall:
    """One call that is answered by a stream."""

    method: str
    request: Message
    response: type[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who changes which experiment, and why; an etag refuses one that has changed meanwhile."""

    name: str
    actor: str = ""
    etag: str = ""
    reason: str = ""

    def message(self) -> pb.Change:
        return pb.Change(name=self.name, etag=self.etag, actor=self.actor, reason=self.reason)


class Signed:
    """Calls whose changes are signed with `actor`, for the audit."""

    def __init__(self, actor: str) -> None:
        self.actor = actor

    def _change(self, name: str, etag: str, reason: str) -> Change:
        return Change(name=name, actor=self.actor, etag=etag, reason=reason)


def create(document: Mapping[str, Any], actor: str) -> Call[results.Experiment]:
    request = pb.CreateExperimentRequest(
        experiment=experiment_message(document), request_id=uuid.uuid4().hex, actor=actor
    )
    return _experiment("CreateExperiment", request, pb.CreateExperimentResponse)


def start(change: Change, acknowledged_guardrails: Sequence[str]) -> Call[results.Experiment]:
    request = pb.StartExperimentRequest(
        change=change.message(), acknowledged_guardrails=acknowledged_guardrails
    )
    return _experiment("StartExperiment", request, pb.StartExperimentResponse)


def step(method: str, change: Change) -> Call[results.Experiment]:
    request, response = _STEPS[method]
    return _experiment(method, request(change=change.message()), response)


def promote(change: Change, variant: str, override_reason: str) -> Call[results.Experiment]:
    request = pb.PromoteVariantRequest(
        change=change.message(), variant=variant, override_reason=override_reason
    )
    return _experiment("PromoteVariant", request, pb.PromoteVariantResponse)


def update_traffic(change: Change, coverage: float) -> Call[results.Experiment]:
    request = pb.UpdateTrafficRequest(
        change=change.message(), coverage_ppm=share(coverage, "coverage")
    )
    return _experiment("UpdateTraffic", request, pb.UpdateTrafficResponse)


def new_phase(change: Change, weights: Mapping[str, float]) -> Call[results.Experiment]:
    request = pb.NewPhaseRequest(
        change=change.message(),
        weights_ppm={key: share(weight, f"weights.{key}") for key, weight in weights.items()},
    )
    return _experiment("NewPhase", request, pb.NewPhaseResponse)


def get(name: str) -> Call[results.Experiment]:
    return _experiment(
        "GetExperiment", pb.GetExperimentRequest(name=name), pb.GetExperimentResponse
    )


def assign(name: str, unit: str) -> Call[results.Assignment]:
    return _call(
        "Assign",
        pb.AssignRequest(experiment=name, unit_id=unit),
        pb.AssignResponse,
        lambda response: read(results.Assignment, response.assignment),
    )


def record(name: str, outcomes: Sequence[Outcome]) -> Call[list[results.OutcomeResult]]:
    return _call(
        "RecordOutcomes",
        pb.RecordOutcomesRequest(experiment=name, outcomes=[one.message() for one in outcomes]),
        pb.RecordOutcomesResponse,
        lambda response: [read(results.OutcomeResult, one) for one in response.results],
    )


def list_page(token: str) -> Call[Page[results.Experiment]]:
    return _call(
        "ListExperiments",
        pb.ListExperimentsRequest(page_token=token),
        pb.ListExperimentsResponse,
        lambda r: ([read(results.Experiment, one) for one in r.experiments], r.next_page_token),
    )


def report(name: str, phase: int, with_distributions: bool) -> Call[results.Report]:
    return _call(
        "GetReport",
        pb.GetReportRequest(name=name, phase=phase, with_distributions=with_distributions),
        pb.GetReportResponse,
        lambda response: read(results.Report, response.report),
    )


def plan(
    name: str,
    *,
    effect: float,
    deviation: float | None,
    rate: float | None,
    method: str,
    alpha: float | None,
    power: float | None,
) -> Call[results.Plan]:
    request = pb.PlanExperimentRequest(
        name=name, effect=effect, deviation=deviation, rate=rate, alpha=alpha, power=power
    )
    if method:
        request.method = pb.AnalysisMethod.Value(f"ANALYSIS_METHOD_{method.upper()}")
    return _call(
        "PlanExperiment",
        request,
        pb.PlanExperimentResponse,
        lambda response: read(results.Plan, response),
    )


def audit_page(name: str, token: str) -> Call[Page[results.AuditEvent]]:
    return _call(
        "ListAuditEvents",
        pb.ListAuditEventsRequest(experiment=name, page_token=token),
        pb.ListAuditEventsResponse,
        lambda r: ([read(results.AuditEvent, one) for one in r.events], r.next_page_token),
    )


def delete_unit(unit: str, name: str, actor: str) -> Call[results.Removed]:
    return _call(
        "DeleteUnit",
        pb.DeleteUnitRequest(unit_id=unit, experiment=name, actor=actor),
        pb.DeleteUnitResponse,
        lambda response: read(results.Removed, response),
    )


def watch(name: str, interval: float) -> StreamCall:
    request = pb.StreamReportRequest(name=name)
    request.min_interval.FromNanoseconds(int(interval * 1e9))
    return StreamCall(_SERVICE + "StreamReport", request, pb.StreamReportResponse)


def export(name: str, phase: int) -> StreamCall:
    request = pb.ExportRecordsRequest(name=name, phase=phase)
    return StreamCall(_SERVICE + "ExportRecords", request, pb.ExportRecordsResponse)


def _experiment(method: str, request: Message, response: type[Message]) -> Call[results.Experiment]:
    return _call(
        method, request, response, lambda message: read(results.Experiment, message.experiment)
    )


def _call(
    method: str, request: Message, response: type[Message], reader: Callable[[Any], Result]
) -> Call[Result]:
    return Call(_SERVICE + method, request, response, reader)
