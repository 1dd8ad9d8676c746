"""Units and the sums over them, kept up to date by differences within one transaction."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from bosal_server.experiments.bulk import Bulk
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
        self._bulk = Bulk(connection)
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
        by = (UNITS.c.phase, UNITS.c.unit)
        self._take(entry, self._bulk.find([*UNITS.c], entry.id, by, missing))

    def load_units(self, entry: Entry, units: Iterable[bytes]) -> None:
        """Read the rows of units in every phase."""
        self._entries[entry.id] = entry.experiment
        by = (UNITS.c.unit,)
        self._take(entry, self._bulk.find([*UNITS.c], entry.id, by, sorted(set(units))))

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
        created: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
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
            values = (
                row.variant,
                row.is_mixed,
                row.requests,
                row.covariate,
                json.dumps(row.tallies, separators=(",", ":")),
            )
            if key in self._is_new:
                created.append((*key, *values))
            else:
                changed.append((*values, *key))
        self._bulk.insert(UNITS, created)
        self._bulk.update(UNITS, _UNIT_VALUES, _UNIT_KEY, changed)
        self._bulk.delete(UNITS, _UNIT_KEY, list(self._removed))
        self._write_totals()

    def _add(self, key: TotalKey, difference: Sequence[float]) -> None:
        known = self._differences.get(key)
        if known is None:
            self._differences[key] = list(difference)
        else:
            for index, amount in enumerate(difference):
                known[index] += amount

    def _write_totals(self) -> None:
        known: dict[TotalKey, list[float]] = {}
        by = (TOTALS.c.phase, TOTALS.c.variant, TOTALS.c.name)
        for experiment in {key[0] for key in self._differences}:
            wanted = [key[1:] for key in self._differences if key[0] == experiment]
            for _, *place, numbers in self._bulk.find([*TOTALS.c], experiment, by, wanted):
                phase, variant, name = place
                known[experiment, phase, variant, name] = json.loads(numbers)
        created: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        for key, difference in self._differences.items():
            if not any(difference):
                continue
            old = known.get(key)
            total = (
                difference if old is None else [a + b for a, b in zip(old, difference, strict=True)]
            )
            numbers = json.dumps(total, separators=(",", ":"))
            if old is None:
                created.append((*key, numbers))
            else:
                changed.append((numbers, *key))
        self._bulk.insert(TOTALS, created)
        self._bulk.update(TOTALS, ("numbers",), _TOTAL_KEY, changed)


_UNIT_KEY = ("experiment", "phase", "unit")
_UNIT_VALUES = ("variant", "is_mixed", "requests", "covariate", "tallies")
_TOTAL_KEY = ("experiment", "phase", "variant", "name")
