"""Units and the sums over them, kept up to date by differences within one transaction."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.records import Entry
from bosal_server.experiments.tables import TOTALS, UNITS
from bosal_server.experiments.unit_row import Sums, UnitRow

__all__ = ["COUNTS", "EXPERIMENT_COUNTS", "WHOLE", "Books"]

# What the totals named "" of an arm count, and those of the experiment as a whole.
COUNTS = ("units", "requests", "completed", "failed", "mixed")
EXPERIMENT_COUNTS = ("orphans", "skewed")
WHOLE = -1
_REST = -3

UnitKey = tuple[int, int, bytes]
TotalKey = tuple[int, int, int, str]


class Books:
    """The units one transaction touches. Load them, change their rows, then `close`.

    The transaction must hold the write lock from before the first load.
    """

    def __init__(self, connection: Connection) -> None:
        self._bulk = Bulk(connection)
        self._rows: dict[UnitKey, UnitRow] = {}
        self._before: dict[UnitKey, Sums] = {}
        self._removed: set[UnitKey] = set()
        self._entries: dict[int, Experiment] = {}
        # What is to be added to a total.
        self._amounts: dict[TotalKey, list[Sequence[float]]] = {}

    def load(self, entry: Entry, keys: Iterable[tuple[int, bytes]]) -> None:
        """Read the rows of units, by phase and unit, that are not loaded yet."""
        self._entries[entry.id] = entry.experiment
        missing = [key for key in set(keys) if (entry.id, *key) not in self._rows]
        by = (UNITS.c.phase, UNITS.c.unit)
        self._take(entry, self._bulk.find([*UNITS.c], entry.id, by, missing))

    def load_units(self, entry: Entry, units: Iterable[bytes]) -> None:
        """Read the rows of units in every phase."""
        wanted = sorted(set(units))
        if wanted:
            # Rows are found by phase and unit; that of another server may be the newest phase.
            last = self._bulk.highest(UNITS.c.phase, entry.id)
            self.load(entry, ((phase, unit) for phase in range(1, last + 1) for unit in wanted))

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

    def add(
        self, entry: Entry, phase: int, variant: int, name: str, amounts: Sequence[float]
    ) -> None:
        """Add to a total that no unit keeps."""
        self._add((entry.id, phase, variant, name), amounts)

    def close(self) -> None:
        """Write the rows and the totals they changed."""
        changed: list[tuple[Any, ...]] = []
        for key, row in self._rows.items():
            experiment, phase, _ = key
            before = self._before[key]
            after = {} if key in self._removed else row.sums(self._entries[experiment])
            if before != after:
                self._move(experiment, phase, before, after)
            elif not row.is_changed:
                continue
            if key not in self._removed:
                changed.append(
                    (
                        *key,
                        row.variant,
                        row.is_mixed,
                        row.requests,
                        row.covariate,
                        _JSON.encode(row.tallies),
                    )
                )
        self._bulk.put(UNITS, changed)
        self._bulk.delete(UNITS, _UNIT_KEY, list(self._removed))
        self._write_totals()

    def _move(self, experiment: int, phase: int, before: Sums, after: Sums) -> None:
        """Take what a unit added to the totals out of them, and add what it adds now."""
        for place, numbers in before.items():
            self._add((experiment, phase, *place), [-number for number in numbers])
        for place, numbers in after.items():
            self._add((experiment, phase, *place), numbers)

    def _add(self, key: TotalKey, amounts: Sequence[float]) -> None:
        known = self._amounts.get(key)
        if known is None:
            known = self._amounts[key] = []
        known.append(amounts)

    def _write_totals(self) -> None:
        added = {key: [*zip(*amounts, strict=True)] for key, amounts in self._amounts.items()}
        added = {key: columns for key, columns in added.items() if any(map(math.fsum, columns))}
        known: dict[TotalKey, list[float]] = {}
        by = (TOTALS.c.phase, TOTALS.c.variant, TOTALS.c.name)
        for experiment in {key[0] for key in added}:
            wanted = [key[1:] for key in added if key[0] == experiment]
            wanted += [_rest(key)[1:] for key in added if key[0] == experiment]
            for _, *place, numbers in self._bulk.find([*TOTALS.c], experiment, by, wanted):
                phase, variant, name = place
                known[experiment, phase, variant, name] = json.loads(numbers)
        changed: list[tuple[Any, ...]] = []
        for key, columns in added.items():
            nothing = [0.0] * len(columns)
            old = zip(known.get(key, nothing), known.get(_rest(key), nothing), strict=True)
            terms = [(*column, *before) for column, before in zip(columns, old, strict=True)]
            sums = [math.fsum(some) for some in terms]
            rests = [math.fsum((*some, -total)) for some, total in zip(terms, sums, strict=True)]
            changed.append((*key, _JSON.encode(sums)))
            if any(rests) or _rest(key) in known:
                changed.append((*_rest(key), _JSON.encode(rests)))
        self._bulk.put(TOTALS, changed)


def _rest(key: TotalKey) -> TotalKey:
    """Return where what a sum's rounding leaves is kept.

    With it a sum has twice the digits: what a unit added can be taken out again, and one whose
    values are a billion times the others' has not drowned them.
    """
    experiment, phase, variant, name = key
    return experiment, phase, _REST - variant, name


_UNIT_KEY = ("experiment", "phase", "unit")
_JSON = json.JSONEncoder(separators=(",", ":"))
