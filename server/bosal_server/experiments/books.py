"""Units and the sums over them, kept up to date by differences within one transaction."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update

from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.metric import Tally, contribution
from bosal_server.experiments.records import Entry
from bosal_server.experiments.tables import TOTALS, UNITS

__all__ = ["COUNTS", "EXPERIMENT_COUNTS", "WHOLE", "Books", "UnitRow"]

# What the totals named "" of an arm count, and those of the experiment as a whole.
COUNTS = ("units", "requests", "completed", "failed", "mixed")
EXPERIMENT_COUNTS = ("orphans", "skewed")
WHOLE = -1
# Tallied of every unit: how many of its requests ended, and how many of those failed.
FAILED = "failed"

UnitKey = tuple[int, int, bytes]
TotalKey = tuple[int, int, int, str]
Key = TypeVar("Key")
Sums = dict[tuple[int, str], tuple[float, ...]]


@dataclass(slots=True)
class UnitRow:
    """One unit in one phase."""

    variant: int
    covariate: float
    requests: int = 0
    is_mixed: bool = False
    tallies: dict[str, Tally] = field(default_factory=dict)

    def add(self, experiment: Experiment, outcome: str, value: float) -> None:
        """Take in a value of an outcome."""
        names = {
            tally: amount
            for metric in experiment.outcomes.get(outcome, ())
            for tally, amount in metric.added(outcome, value)
        }
        if outcome == FAILED:
            names[FAILED] = value
        for name, amount in names.items():
            count, total = self.tallies.get(name, (0, 0.0))
            self.tallies[name] = (count + 1, total + amount)

    def sums(self, experiment: Experiment) -> Sums:
        """Return what this unit adds to the totals."""
        if self.is_mixed:
            return {(self.variant, ""): (0, 0, 0, 0, 1)}
        completed, failed = self.tallies.get(FAILED, (0, 0.0))
        found: Sums = {(self.variant, ""): (1, self.requests, completed, failed, 0)}
        for metric in experiment.metrics:
            numbers = contribution(metric, self.tallies, self.requests, self.covariate)
            if numbers is not None:
                found[self.variant, metric.name] = numbers
        return found


class Books:
    """The units one transaction touches. Load them, change their rows, then `close`.

    The transaction must hold the write lock from before the first load.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: dict[UnitKey, UnitRow] = {}
        self._before: dict[UnitKey, Sums] = {}
        self._is_new: set[UnitKey] = set()
        self._removed: set[UnitKey] = set()
        self._entries: dict[int, Experiment] = {}
        self._differences: dict[TotalKey, list[float]] = {}

    def load(self, entry: Entry, keys: Iterable[tuple[int, bytes]]) -> None:
        """Read the rows of units, by phase and unit, that are not loaded yet."""
        self._entries[entry.id] = entry.experiment
        missing = [key for key in set(keys) if (entry.id, *key) not in self._rows]
        columns = UNITS.c
        for part in parts(missing):
            query = select(UNITS).where(
                columns.experiment == entry.id, tuple_(columns.phase, columns.unit).in_(part)
            )
            self._take(entry, self._connection.execute(query))

    def load_units(self, entry: Entry, units: Iterable[bytes]) -> None:
        """Read the rows of units in every phase."""
        self._entries[entry.id] = entry.experiment
        for part in parts(sorted(set(units))):
            query = select(UNITS).where(UNITS.c.experiment == entry.id, UNITS.c.unit.in_(part))
            self._take(entry, self._connection.execute(query))

    def _take(self, entry: Entry, found: Iterable[Any]) -> None:
        for experiment, phase, unit, variant, mixed, requests, covariate, text in found:
            key = (experiment, phase, bytes(unit))
            if key in self._rows:
                continue
            tallies = {name: (count, total) for name, (count, total) in json.loads(text).items()}
            row = UnitRow(variant, covariate, requests, bool(mixed), tallies)
            self._rows[key] = row
            self._before[key] = row.sums(entry.experiment)

    def get(self, entry: Entry, phase: int, unit: bytes) -> UnitRow | None:
        return self._rows.get((entry.id, phase, unit))

    def phases(self, entry: Entry, unit: bytes) -> list[int]:
        """Return the phases among the loaded rows that a unit is in, in order."""
        return sorted(p for e, p, u in self._rows if e == entry.id and u == unit)

    def enrol(self, entry: Entry, phase: int, unit: bytes, variant: int, covariate: float) -> None:
        """Count a request of a unit; one seen in another variant before is dropped for good."""
        key = (entry.id, phase, unit)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = UnitRow(variant, covariate)
            self._before[key] = {}
            self._is_new.add(key)
        row.requests += 1
        row.is_mixed = row.is_mixed or row.variant != variant

    def remove(self, entry: Entry, phase: int, unit: bytes) -> None:
        """Forget a loaded unit."""
        self._removed.add((entry.id, phase, unit))

    def count(self, entry: Entry, name: str, amount: int = 1) -> None:
        """Add to a count of the experiment as a whole."""
        difference = [0.0] * len(EXPERIMENT_COUNTS)
        difference[EXPERIMENT_COUNTS.index(name)] = amount
        self._add((entry.id, 0, WHOLE, ""), difference)

    def close(self) -> None:
        """Write the rows and the totals they changed."""
        created, changed = [], []
        for key, row in self._rows.items():
            experiment, phase, unit = key
            before = self._before[key]
            after = {} if key in self._removed else row.sums(self._entries[experiment])
            # An outcome that no metric is made of changes no sum, but then no tally either.
            if before == after and key not in self._removed:
                continue
            for name in before.keys() | after.keys():
                old, new = before.get(name), after.get(name)
                width = len(new or old or ())
                self._add(
                    (experiment, phase, *name),
                    [b - a for a, b in zip(old or [0] * width, new or [0] * width, strict=True)],
                )
            if key in self._removed:
                continue
            values = {
                "variant": row.variant,
                "is_mixed": row.is_mixed,
                "requests": row.requests,
                "covariate": row.covariate,
                "tallies": json.dumps(row.tallies, separators=(",", ":")),
            }
            if key in self._is_new:
                created.append({"experiment": experiment, "phase": phase, "unit": unit, **values})
            else:
                changed.append({"e": experiment, "p": phase, "u": unit, **values})
        if created:
            self._connection.execute(insert(UNITS), created)
        if changed:
            self._connection.execute(_CHANGE, changed)
        if removed := [{"e": e, "p": p, "u": u} for e, p, u in self._removed]:
            self._connection.execute(_FORGET, removed)
        self._write_totals()

    def _add(self, key: TotalKey, difference: Sequence[float]) -> None:
        known = self._differences.get(key)
        if known is None:
            self._differences[key] = list(difference)
        else:
            for index, amount in enumerate(difference):
                known[index] += amount

    def _write_totals(self) -> None:
        columns = (TOTALS.c.experiment, TOTALS.c.phase, TOTALS.c.variant, TOTALS.c.name)
        known: dict[TotalKey, list[float]] = {}
        for part in parts(list(self._differences)):
            query = select(TOTALS).where(tuple_(*columns).in_(part))
            for experiment, phase, variant, name, numbers in self._connection.execute(query):
                known[experiment, phase, variant, name] = json.loads(numbers)
        created: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for key, difference in self._differences.items():
            if not any(difference):
                continue
            old = known.get(key)
            total = (
                difference if old is None else [a + b for a, b in zip(old, difference, strict=True)]
            )
            experiment, phase, variant, name = key
            row = {"e": experiment, "p": phase, "v": variant, "n": name}
            row["numbers"] = json.dumps(total, separators=(",", ":"))
            (created if old is None else changed).append(row)
        if created:
            self._connection.execute(_NEW_TOTAL, created)
        if changed:
            self._connection.execute(_CHANGE_TOTAL, changed)


def parts(keys: Sequence[Key]) -> Iterable[Sequence[Key]]:
    """Cut what an IN would hold into pieces every database takes."""
    return (keys[start : start + 1000] for start in range(0, len(keys), 1000))


_HERE = (
    (UNITS.c.experiment == bindparam("e"))
    & (UNITS.c.phase == bindparam("p"))
    & (UNITS.c.unit == bindparam("u"))
)
_CHANGE = update(UNITS).where(_HERE).values(
    {name: bindparam(name) for name in ("variant", "is_mixed", "requests", "covariate", "tallies")}
)  # fmt: skip
_FORGET = delete(UNITS).where(_HERE)
_NEW_TOTAL = insert(TOTALS).values(
    experiment=bindparam("e"),
    phase=bindparam("p"),
    variant=bindparam("v"),
    name=bindparam("n"),
    numbers=bindparam("numbers"),
)
_CHANGE_TOTAL = (
    update(TOTALS)
    .where(
        TOTALS.c.experiment == bindparam("e"),
        TOTALS.c.phase == bindparam("p"),
        TOTALS.c.variant == bindparam("v"),
        TOTALS.c.name == bindparam("n"),
    )
    .values(numbers=bindparam("numbers"))
)
