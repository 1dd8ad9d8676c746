"""Puts reports together, and watches over running experiments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from bosal_server.database import Database
from bosal_server.experiments import analysis, conclusion, pair_report
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.distributions import Distributions
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.experiment import Experiment, Phase
from bosal_server.experiments.records import Entry
from bosal_server.experiments.report import ArmReport, EffectPoint, Report
from bosal_server.experiments.tables import SNAPSHOTS
from bosal_server.experiments.totals import (
    Snapshot,
    Totals,
    document,
    read_snapshots,
    read_totals,
)

__all__ = ["Look", "Reporter"]

# A snapshot is taken when there are so many times as many units as at the last.
_GROWTH = 1.05


@dataclass(frozen=True, slots=True)
class Look:
    """What is wrong with a running experiment."""

    harms: tuple[analysis.Harm, ...]
    # Whether its arms have not the shares they were given.
    is_mismatched: bool


class Reporter:
    """Reads and concludes; writes nothing but snapshots."""

    def __init__(
        self, database: Database, changed_recipes: Callable[[Experiment], Sequence[str]]
    ) -> None:
        self._database = database
        # Says in words which recipes are no longer what the experiment serves.
        self._changed_recipes = changed_recipes
        self._distributions = Distributions(database)
        # By experiment and phase: units at the last snapshot that was looked at, and the least p
        # of the shares until then. Looks are many, snapshots grow with the experiment.
        self._seen: dict[tuple[int, int], tuple[int, float]] = {}

    def report(
        self, entry: Entry, phase_number: int, now: float, *, with_distributions: bool = False
    ) -> Report:
        """Report on a phase; 0 is the current one."""
        experiment = entry.experiment
        phase = _phase(experiment, phase_number)
        examples = {}
        with self._database.read() as connection:
            totals, history = _read(connection, entry, phase)
            if with_distributions:
                examples = pair_report.read_examples(connection, entry, phase.number)
        shares = analysis.check_shares(phase, totals, history)
        requests = sum(arm.requests for arm in totals.arms)
        quantiles = {}
        curves = []
        if with_distributions:
            quantiles = self._distributions.quantiles(entry, phase.number, requests, now)
            curves = self._distributions.curves(entry, phase.number, requests, now)
        reports = analysis.metric_reports(experiment, totals, quantiles)
        shadows = pair_report.shadow_reports(experiment, totals)
        return Report(
            experiment=experiment,
            phase=phase.number,
            as_of=now,
            arms=_arms(experiment, phase, totals),
            shares=shares,
            metrics=reports,
            conclusion=conclusion.conclusion(experiment, reports, totals, shares),
            warnings=tuple(
                conclusion.warnings(
                    experiment, phase, totals, shares, self._changed_recipes(experiment), shadows
                )
            ),
            orphans=totals.orphans,
            skewed_outcomes=totals.skewed,
            history=tuple(_history(experiment, phase, history)),
            divergences=pair_report.divergence_reports(experiment, totals, examples),
            shadows=shadows,
            doses=pair_report.dose_reports(experiment, totals),
            distributions=tuple(curves),
        )

    def blocking(self, entry: Entry) -> list[str]:
        """Return what forbids promoting a variant without a reason."""
        phase = entry.experiment.phase
        totals, history = self.read(entry, phase)
        shares = analysis.check_shares(phase, totals, history)
        return conclusion.blocking(shares, self._changed_recipes(entry.experiment))

    def harms(self, entry: Entry) -> list[analysis.Harm]:
        """Return what breaks a guardrail now, whether it is acknowledged or not."""
        experiment = entry.experiment
        with self._database.read() as connection:
            totals = read_totals(connection, entry, experiment.phase.number)
        return analysis.harms(experiment, totals)

    def look(self, entry: Entry, now: float) -> Look:
        """Keep a snapshot of what has grown since the last; return what must not wait."""
        phase = entry.experiment.phase
        last, least_p = self._seen.get((entry.id, phase.number), (0, 1.0))
        with self._database.read() as connection:
            totals = read_totals(connection, entry, phase.number)
            history = read_snapshots(connection, entry, phase.number, above=last)
        shares = analysis.check_shares(phase, totals, history)
        if history:
            last = history[-1].totals.units
            least_p = min(least_p, *analysis.share_history(phase, history))
            self._seen[entry.id, phase.number] = last, least_p
        enough = min((arm.units for arm in totals.arms), default=0) >= entry.experiment.min_units
        if enough and totals.units >= max(last + 1, last * _GROWTH):
            self._keep(entry, phase, totals, now)
        experiment = entry.experiment
        harms = analysis.harms(experiment, totals)
        return Look(
            tuple(one for one in harms if one.metric not in experiment.acknowledged_guardrails),
            min(shares.p_value, least_p) < analysis.SHARE_ALPHA,
        )

    def read(self, entry: Entry, phase: Phase) -> tuple[Totals, list[Snapshot]]:
        with self._database.read() as connection:
            return _read(connection, entry, phase)

    def _keep(self, entry: Entry, phase: Phase, totals: Totals, now: float) -> None:
        row = (entry.id, phase.number, totals.units, now, document(totals))
        with self._database.write() as connection:
            # Another server on this database may be here at the same moment.
            Bulk(connection).put(SNAPSHOTS, [row])


def _read(connection: Connection, entry: Entry, phase: Phase) -> tuple[Totals, list[Snapshot]]:
    return (
        read_totals(connection, entry, phase.number),
        read_snapshots(connection, entry, phase.number),
    )


def _phase(experiment: Experiment, number: int) -> Phase:
    for phase in experiment.phases:
        if phase.number == (number or experiment.phase.number):
            return phase
    raise InvalidExperiment(
        "phase", f"experiment '{experiment.name}' has {len(experiment.phases)} phases, not {number}"
    )


def _arms(experiment: Experiment, phase: Phase, totals: Totals) -> tuple[ArmReport, ...]:
    total = totals.units
    return tuple(
        ArmReport(
            variant=variant.key,
            units=arm.units,
            requests=arm.requests,
            completed=arm.completed,
            failed=arm.failed,
            share=arm.units / total if total else 0.0,
            expected_share=weight / 1e6,
            mixed_units=arm.mixed,
        )
        for variant, arm, weight in zip(
            experiment.variants, totals.arms, phase.weights_ppm, strict=True
        )
    )


def _history(
    experiment: Experiment, phase: Phase, history: Sequence[Snapshot]
) -> list[EffectPoint]:
    share_p = analysis.share_history(phase, history)
    return [
        EffectPoint(
            at=one.at,
            units=one.totals.units,
            variant=effect.variant,
            difference=effect.difference,
            low=effect.low,
            high=effect.high,
            share_p=p,
        )
        for one, p in zip(history, share_p, strict=True)
        for effect in analysis.primary_effects(experiment, one.totals)
        if effect.difference is not None and effect.low is not None and effect.high is not None
    ]
