"""ExperimentService over gRPC."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc.aio

from bosal.v1 import experiment_pb2 as pb
from bosal.v1 import experiment_pb2_grpc
from bosal_server.core import GenerationCore
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.request_errors import MissingField, OutOfRange, located
from bosal_server.rpc import experiments, records, reports
from bosal_server.security.access import Access
from bosal_server.security.caller import current_caller

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_DEFAULT_INTERVAL = 2.0
_MIN_INTERVAL = 0.2
# A report that has not changed is sent again after so long, so that a dead connection is noticed.
_SILENCE_SECONDS = 30.0
# How long a report is still watched by a key that is no longer good.
_KEY_SECONDS = 2.0


class ExperimentService(experiment_pb2_grpc.ExperimentServiceServicer):
    """Makes and changes experiments, takes outcomes, reports."""

    def __init__(self, core: GenerationCore, access: Access) -> None:
        self._access = access
        self._experiments = core.experiments
        self._recipes = core.recipes
        self._is_ending = asyncio.Event()

    def end_streams(self) -> None:
        """Let reports that are watched end: nobody else would end them."""
        self._is_ending.set()

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        request_id = experiments.remark(request.request_id, "request_id", most=128)
        actor = experiments.actor(request.actor, "actor")
        with located("experiment"):
            draft = experiments.draft(request.experiment, self._recipes)
            made = await self._experiments.create(draft, request_id, actor)
        return pb.CreateExperimentResponse(experiment=experiments.experiment(made))

    async def StartExperiment(
        self, request: pb.StartExperimentRequest, context: Context
    ) -> pb.StartExperimentResponse:
        change = experiments.change(request.change, "START")
        acknowledged = tuple(request.acknowledged_guardrails)
        found = await self._experiments.begin(request.change.name, change, acknowledged)
        return pb.StartExperimentResponse(experiment=experiments.experiment(found))

    async def PauseExperiment(
        self, request: pb.PauseExperimentRequest, context: Context
    ) -> pb.PauseExperimentResponse:
        change = experiments.change(request.change, "PAUSE")
        found = await self._experiments.pause(request.change.name, change)
        return pb.PauseExperimentResponse(experiment=experiments.experiment(found))

    async def StopExperiment(
        self, request: pb.StopExperimentRequest, context: Context
    ) -> pb.StopExperimentResponse:
        change = experiments.change(request.change, "STOP")
        found = await self._experiments.stop(request.change.name, change)
        return pb.StopExperimentResponse(experiment=experiments.experiment(found))

    async def PromoteVariant(
        self, request: pb.PromoteVariantRequest, context: Context
    ) -> pb.PromoteVariantResponse:
        change = experiments.change(request.change, "PROMOTE")
        found = await self._experiments.promote(
            request.change.name,
            request.variant,
            experiments.remark(request.override_reason, "override_reason"),
            change,
        )
        return pb.PromoteVariantResponse(experiment=experiments.experiment(found))

    async def UpdateTraffic(
        self, request: pb.UpdateTrafficRequest, context: Context
    ) -> pb.UpdateTrafficResponse:
        change = experiments.change(request.change, "UPDATE_TRAFFIC")
        if not request.HasField("coverage_ppm"):
            raise MissingField("coverage_ppm", "how many millionths?")
        found = await self._experiments.update_traffic(
            request.change.name, request.coverage_ppm, change
        )
        return pb.UpdateTrafficResponse(experiment=experiments.experiment(found))

    async def NewPhase(self, request: pb.NewPhaseRequest, context: Context) -> pb.NewPhaseResponse:
        change = experiments.change(request.change, "NEW_PHASE")
        found = await self._experiments.new_phase(
            request.change.name, dict(request.weights_ppm), change
        )
        return pb.NewPhaseResponse(experiment=experiments.experiment(found))

    async def Assign(self, request: pb.AssignRequest, context: Context) -> pb.AssignResponse:
        found = self._experiments.assign(request.experiment, request.unit_id)
        return pb.AssignResponse(assignment=experiments.assignment(found))

    async def RecordOutcomes(
        self, request: pb.RecordOutcomesRequest, context: Context
    ) -> pb.RecordOutcomesResponse:
        commands = records.outcomes(request.outcomes)
        results = await self._experiments.record(request.experiment, commands)
        return pb.RecordOutcomesResponse(results=[records.outcome_result(one) for one in results])

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: Context
    ) -> pb.GetExperimentResponse:
        found = await self._experiments.get(request.name)
        return pb.GetExperimentResponse(experiment=experiments.experiment(found))

    async def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: Context
    ) -> pb.ListExperimentsResponse:
        size = _page_size(request.page_size)
        # The token is the name the page begins behind, so it stays good when others are made.
        rest = [one for one in await self._experiments.every() if one.name > request.page_token]
        page = rest[:size]
        return pb.ListExperimentsResponse(
            experiments=[experiments.experiment(one) for one in page],
            next_page_token=page[-1].name if len(page) < len(rest) else "",
        )

    async def GetReport(
        self, request: pb.GetReportRequest, context: Context
    ) -> pb.GetReportResponse:
        found = await self._experiments.report(
            request.name, request.phase, with_distributions=request.with_distributions
        )
        return pb.GetReportResponse(report=reports.report(found))

    async def StreamReport(
        self, request: pb.StreamReportRequest, context: Context
    ) -> AsyncGenerator[pb.StreamReportResponse, None]:
        interval = _DEFAULT_INTERVAL
        if request.HasField("min_interval"):
            interval = request.min_interval.seconds + request.min_interval.nanos / 1e9
            if interval < _MIN_INTERVAL:
                raise InvalidExperiment("min_interval", f"at least {_MIN_INTERVAL} s")
        sent, silence = pb.Report(), 0.0
        while not self._is_ending.is_set():
            found = reports.report(await self._experiments.report(request.name, 0))
            as_of = found.as_of
            found.ClearField("as_of")
            if found != sent or silence >= _SILENCE_SECONDS:
                sent, silence = found, 0.0
                message = pb.StreamReportResponse(report=found)
                message.report.as_of.CopyFrom(as_of)
                yield message
            await self._pause(interval)
            silence += interval

    async def _pause(self, seconds: float) -> None:
        """Wait until a watched report is due or the server ends.

        This is the one call that would outlive its key for ever.
        """
        due = monotonic() + seconds
        while (left := due - monotonic()) > 0 and not self._is_ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), min(left, _KEY_SECONDS))
            self._access.check(current_caller.get())

    async def PlanExperiment(
        self, request: pb.PlanExperimentRequest, context: Context
    ) -> pb.PlanExperimentResponse:
        found = await self._experiments.plan(request.name, reports.plan_command(request))
        return reports.plan(found)

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        size = _page_size(request.page_size)
        token = request.page_token
        # More digits than a database's number has are none of this server's.
        if token and not (token.isascii() and token.isdecimal() and len(token) <= 18):
            raise InvalidExperiment("page_token", "not one that this server gives")
        events = await self._experiments.events(
            request.experiment, before=int(token or 0), limit=size + 1
        )
        page = events[:size]
        return pb.ListAuditEventsResponse(
            events=[experiments.audit_event(one) for one in page],
            next_page_token=str(page[-1].id) if len(page) < len(events) else "",
        )

    async def DeleteUnit(
        self, request: pb.DeleteUnitRequest, context: Context
    ) -> pb.DeleteUnitResponse:
        removed = await self._experiments.delete_unit(
            request.unit_id, request.experiment, experiments.actor(request.actor, "actor")
        )
        return pb.DeleteUnitResponse(exposures=removed.exposures, outcomes=removed.outcomes)

    async def ExportRecords(
        self, request: pb.ExportRecordsRequest, context: Context
    ) -> AsyncGenerator[pb.ExportRecordsResponse, None]:
        async for page in self._experiments.export(request.name, request.phase):
            yield records.export_page(page)


def _page_size(asked: int) -> int:
    if asked > _MAX_PAGE:
        raise OutOfRange("page_size", asked, low=0, high=_MAX_PAGE)
    return asked or _DEFAULT_PAGE
