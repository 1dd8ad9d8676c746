"""The sums over the units of a phase, as they are or as they were."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import Connection, select

from bosal_server.experiments.books import COUNTS, EXPERIMENT_COUNTS, WHOLE
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.pairing import COUNTS_NAME, PAIR_COUNTS, RULE_PREFIX
from bosal_server.experiments.records import Entry
from bosal_server.experiments.tables import SNAPSHOTS, TOTALS
from bosal_server.statistics.moments import Moments

__all__ = ["ArmCounts", "Snapshot", "Totals", "read_snapshots", "read_totals"]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """How much one arm has seen; mixed units are not among its units."""

    units: int = 0
    requests: int = 0
    completed: int = 0
    failed: int = 0
    mixed: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Every arm's counts, in the experiment's order, and its sums by metric."""

    arms: tuple[ArmCounts, ...]
    moments: Mapping[tuple[int, str], Moments] = field(default_factory=dict)
    # Of pairs, by variant: their counts, and those of the rules that parted them.
    pairs: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    rules: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    orphans: int = 0
    skewed: int = 0

    @classmethod
    def read(
        cls,
        experiment: Experiment,
        rows: Iterable[tuple[int, str, str]],
        whole: tuple[float, ...] = (0, 0),
    ) -> Self:
        """Put rows of (variant, name, numbers) together."""
        counts: dict[int, ArmCounts] = {}
        moments: dict[tuple[int, str], Moments] = {}
        pairs: dict[int, Mapping[str, int]] = {}
        rules: dict[int, dict[str, int]] = {}
        for variant, name, text in rows:
            if variant < WHOLE:
                # What rounding left of a sum.
                continue
            numbers = json.loads(text)
            if name == COUNTS_NAME:
                pairs[variant] = dict(zip(PAIR_COUNTS, map(round, numbers), strict=True))
            elif name.startswith(RULE_PREFIX):
                rules.setdefault(variant, {})[name.removeprefix(RULE_PREFIX)] = round(numbers[0])
            elif name:
                moments[variant, name] = Moments.read(numbers)
            else:
                counts[variant] = ArmCounts(*map(round, numbers))
        arms = tuple(counts.get(index, ArmCounts()) for index in range(len(experiment.variants)))
        return cls(arms, moments, pairs, rules, *map(round, whole))

    @property
    def units(self) -> int:
        return sum(arm.units for arm in self.arms)

    def arm(self, index: int, metric: str) -> Moments:
        return self.moments.get((index, metric), Moments())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals as they were."""

    at: float
    totals: Totals


def read_totals(connection: Connection, entry: Entry, phase: int) -> Totals:
    """Read the sums of one phase."""
    query = select(TOTALS.c.phase, TOTALS.c.variant, TOTALS.c.name, TOTALS.c.numbers).where(
        TOTALS.c.experiment == entry.id, TOTALS.c.phase.in_((0, phase))
    )
    rows, whole = [], (0.0,) * len(EXPERIMENT_COUNTS)
    for found_phase, variant, name, numbers in connection.execute(query):
        if variant == WHOLE:
            whole = tuple(json.loads(numbers))
        elif found_phase == phase:
            rows.append((variant, name, numbers))
    return Totals.read(entry.experiment, rows, whole)


def read_snapshots(
    connection: Connection, entry: Entry, phase: int, *, above: int = 0
) -> list[Snapshot]:
    """Read how the sums came about, the oldest first, from more than `above` units on."""
    query = (
        select(SNAPSHOTS.c.at, SNAPSHOTS.c.document)
        .where(
            SNAPSHOTS.c.experiment == entry.id,
            SNAPSHOTS.c.phase == phase,
            SNAPSHOTS.c.units > above,
        )
        .order_by(SNAPSHOTS.c.units)
    )
    return [
        Snapshot(at, Totals.read(entry.experiment, json.loads(document)))
        for at, document in connection.execute(query)
    ]


def document(totals: Totals) -> str:
    """Write totals as a snapshot keeps them."""
    rows: list[tuple[int, str, str]] = [
        (index, "", json.dumps([getattr(arm, name) for name in COUNTS]))
        for index, arm in enumerate(totals.arms)
    ]
    rows += [
        (index, name, json.dumps(moments.numbers))
        for (index, name), moments in totals.moments.items()
    ]
    return json.dumps(rows, separators=(",", ":"))
