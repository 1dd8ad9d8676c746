"""Experiments as the rest of the server knows them: assign, record, change, report."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from sqlalchemy import Connection

from bosal_server.database import Database
from bosal_server.experiments import enrolment, export, intake, ledger, planning
from bosal_server.experiments.catalogue import AuditEvent, Catalogue, Change
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.errors import (
    InvalidExperiment,
)
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.export import ExportPage
from bosal_server.experiments.intake import OutcomeCommand, OutcomeResult
from bosal_server.experiments.planning import Plan, PlanCommand
from bosal_server.experiments.privacy import Pseudonyms, exposure_id
from bosal_server.experiments.recipe_ties import RecipeTies
from bosal_server.experiments.records import (
    Completion,
    Exposure,
    Outcome,
    Outcomes,
    Pair,
    Pairs,
    Removal,
    Removed,
)
from bosal_server.experiments.report import Report
from bosal_server.experiments.reporter import Reporter
from bosal_server.experiments.steps import Steps
from bosal_server.experiments.watcher import Watcher
from bosal_server.experiments.writer import Writer
from bosal_server.recipe_store import RecipeStore
from bosal_server.store_metrics import StoreCounts

__all__ = ["ExperimentManager"]


class ExperimentManager:
    """Everything about experiments on one server. Coroutines belong to one event loop."""

    def __init__(
        self,
        database: Database,
        recipes: RecipeStore,
        pseudonyms: Pseudonyms,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pseudonyms = pseudonyms
        self._clock = clock
        self._catalogue = Catalogue(database)
        self._ties = RecipeTies(recipes, self._catalogue)
        self._writer = Writer(database, ledger.post)
        self._reporter = Reporter(database, self._ties.changed)
        self._watcher = Watcher(database, self._catalogue, self._reporter, self._writer, clock)
        steps = Steps(self._catalogue, self._reporter, clock)
        self.create, self.begin, self.pause = steps.create, steps.begin, steps.pause
        self.stop, self.promote = steps.stop, steps.promote
        self.update_traffic, self.new_phase = steps.update_traffic, steps.new_phase
        # Deletes what has been kept for as long as it may be; else done once an hour.
        self.expire = self._watcher.expire

    async def start(self) -> None:
        """Read what there is and begin to watch over it."""
        await asyncio.to_thread(self._catalogue.refresh)
        self._writer.start()
        self._watcher.start()

    async def close(self) -> None:
        """Write what waits; nothing is recorded any more."""
        await self._watcher.close()
        await asyncio.to_thread(self._writer.close)

    def store_counts(self) -> StoreCounts:
        """Return, from any thread, what became of the records, and whose shares are wrong."""
        writer, wrong = self._writer, self._watcher.mismatched
        return StoreCounts(writer.num_written, writer.num_lost, writer.num_waiting, wrong)

    def assign(self, experiment: str, unit: str, force_variant: str = "") -> Assignment:
        """Return what a request is served; records nothing."""
        entry = self._catalogue.get(experiment, field="experiment")
        found = enrolment.assign(entry, unit, force_variant)
        if found.is_recorded and not self._writer.is_accepting:
            return found.unavailable()
        return found

    def expose(
        self,
        assignment: Assignment,
        *,
        request_id: str,
        model_digest: str,
        seed: int,
        instruction: str,
        instruction_tokens: int,
    ) -> Assignment | None:
        """Queue the exposure of a request; None: it cannot be kept.

        The same request id of the same unit is the same exposure.
        """
        experiment = assignment.experiment
        unit = self._pseudonyms.unit(experiment.name, assignment.unit)
        id_ = exposure_id(experiment.name, assignment.phase, unit, request_id)
        record = Exposure(
            entry=assignment.entry,
            id=id_,
            phase=assignment.phase,
            unit=unit,
            variant=experiment.places[assignment.variant.key],
            is_forced=assignment.reason is enrolment.Reason.FORCED,
            recipe_version=assignment.variant.recipe_version,
            model_digest=model_digest,
            seed=seed,
            instruction_tokens=instruction_tokens,
            instruction=self._pseudonyms.text(experiment.name, instruction),
            at=self._clock(),
        )
        if not self._writer.offer(record):
            return None
        return assignment.exposed(id_)

    def complete(
        self,
        assignment: Assignment,
        outcomes: Mapping[str, float],
        finish_reason: str,
        text: tuple[str, str] | None = None,
    ) -> None:
        """Queue what was measured of an exposed request."""
        experiment, now = assignment.experiment, self._clock()
        kept = None
        if text is not None and experiment.text_retention is not None:
            kept = (*text, now + experiment.text_retention.total_seconds())
        self._writer.follow(
            Completion(
                entry=assignment.entry,
                exposure=assignment.exposure_id,
                outcomes=outcomes,
                finish_reason=finish_reason,
                at=now,
                text=kept,
            )
        )
        if outcomes.get("failed"):
            self._watcher.note_failure(experiment, assignment.variant.key)

    def pair(self, assignment: Assignment, pairs: Sequence[Pair]) -> None:
        """Queue what an exposed request was held against."""
        self._writer.follow(Pairs(assignment.entry, assignment.exposure_id, pairs, self._clock()))

    async def record(self, name: str, commands: Sequence[OutcomeCommand]) -> list[OutcomeResult]:
        """Write outcomes; answer when they are on disk.

        Raises:
            DatabaseUnavailable: nothing is sure to be written; sending it again is safe.
        """
        intake.check_count(len(commands))
        entry = self._catalogue.get(name, field="experiment")
        now = self._clock()
        read = [
            intake.read_outcome(one, entry.experiment, self._pseudonyms, now) for one in commands
        ]
        accepted = [one for one in read if isinstance(one, Outcome)]
        statuses = iter(await self._writer.submit(Outcomes(entry, accepted)) if accepted else ())
        return [intake.result(next(statuses)) if isinstance(one, Outcome) else one for one in read]

    async def delete_unit(self, unit: str, name: str, actor: str) -> Removed:
        """Forget a unit, in one experiment or (name "") in all."""
        if not unit:
            raise InvalidExperiment("unit_id", "whom is it about?")
        await asyncio.to_thread(self._catalogue.refresh)
        entries = [self._catalogue.get(name, field="experiment")] if name else [*self._catalogue]
        removed = Removed(0, 0)
        for entry in entries:
            hashed = self._pseudonyms.unit(entry.experiment.name, unit)
            one: Removed = await self._writer.submit(Removal(entry, hashed))
            removed = Removed(removed.exposures + one.exposures, removed.outcomes + one.outcomes)
            if one.exposures or one.outcomes:
                details = {"exposures": one.exposures, "outcomes": one.outcomes}
                change = Change(action="DELETE_UNIT", actor=actor, details=details)
                await asyncio.to_thread(
                    self._catalogue.note, entry.experiment.name, change, self._clock()
                )
        return removed

    async def get(self, name: str, *, field: str = "name") -> Experiment:
        await asyncio.to_thread(self._catalogue.refresh)
        return self._catalogue.get(name, field=field).experiment

    async def every(self) -> list[Experiment]:
        """Return every experiment, by name."""
        await asyncio.to_thread(self._catalogue.refresh)
        return sorted((entry.experiment for entry in self._catalogue), key=lambda e: e.name)

    async def report(self, name: str, phase: int, *, with_distributions: bool = False) -> Report:
        """Say what is known now, of replies that have just left too."""
        await self._writer.flush()
        await asyncio.to_thread(self._catalogue.refresh)
        entry = self._catalogue.get(name)
        return await asyncio.to_thread(
            lambda: self._reporter.report(
                entry, phase, self._clock(), with_distributions=with_distributions
            )
        )

    async def plan(self, name: str, asked: PlanCommand) -> Plan:
        """Say how many units show an effect; an experiment gives what is not said."""
        entry = None
        if name:
            await self.get(name)
            entry = self._catalogue.get(name)
        return await asyncio.to_thread(planning.plan, self._database, entry, asked)

    async def events(self, name: str, *, before: int, limit: int) -> list[AuditEvent]:
        if name:
            await self.get(name, field="experiment")
        return await asyncio.to_thread(
            lambda: self._catalogue.events(name, before=before, limit=limit)
        )

    async def export(self, name: str, phase: int) -> AsyncGenerator[ExportPage, None]:
        """Yield what was recorded, a page at a time."""
        await asyncio.to_thread(self._catalogue.refresh)
        rows = export.pages(self._database, self._catalogue.get(name), phase)
        while (page := await asyncio.to_thread(next, rows, None)) is not None:
            yield page

    def recipe_users(
        self, connection: Connection, recipe: str, versions: Sequence[str]
    ) -> Sequence[str]:
        """Name the experiments that serve a recipe; it is not archived as long as there are any."""
        return self._ties.users(connection, recipe, versions)
