"""Writes down a batch of records in one transaction, each thing once however often it is told."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, text

from bosal_server.experiments import erasure
from bosal_server.experiments.books import Books
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.pairing import post_pairs
from bosal_server.experiments.places import Place
from bosal_server.experiments.records import (
    Completion,
    Entry,
    Expiry,
    Exposure,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Pairs,
    Record,
    Removal,
    Removed,
)
from bosal_server.experiments.tables import (
    COMPLETIONS,
    EXPOSURES,
    ORPHANS_INDEX,
    OUTCOMES,
    TEXTS,
    UNIT_INDEX,
)

__all__ = ["post"]

# Held by the one server of several that writes; any fixed number will do.
_WRITE_LOCK = 0x626F73616D

Answer = Sequence[OutcomeStatus] | Removed | None


def post(connection: Connection, records: Sequence[Record]) -> list[Answer]:
    """Write records in their order; return an answer to each that has one."""
    if connection.dialect.name != "sqlite":
        # SQLite has its one write lock already.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITE_LOCK})
    answers: list[Answer] = [None] * len(records)
    start = 0
    while start < len(records):
        first = records[start]
        if isinstance(first, Removal):
            answers[start] = erasure.remove(connection, first)
            start += 1
            continue
        end = start
        while end < len(records) and not isinstance(records[end], Removal):
            end += 1
        by_experiment: dict[int, list[int]] = {}
        for index in range(start, end):
            by_experiment.setdefault(records[index].entry.id, []).append(index)
        for indices in by_experiment.values():
            _Page(connection, records[indices[0]].entry).post(
                {index: records[index] for index in indices}, answers
            )
        start = end
    return answers


class _Page:
    """Records of one experiment."""

    def __init__(self, connection: Connection, entry: Entry) -> None:
        self._connection = connection
        self._bulk = Bulk(connection)
        self._entry = entry
        self._books = Books(connection)
        self._places: dict[bytes, Place] = {}

    def post(self, records: Mapping[int, Record], answers: list[Answer]) -> None:
        exposures = [one for one in records.values() if isinstance(one, Exposure)]
        completions = [one for one in records.values() if isinstance(one, Completion)]
        outcomes = [
            outcome
            for one in records.values()
            if isinstance(one, Outcomes)
            for outcome in one.outcomes
        ]
        pairs = [one for one in records.values() if isinstance(one, Pairs)]
        wanted = {one.id for one in exposures}
        wanted |= {one.exposure for one in completions} | {one.exposure for one in pairs}
        wanted |= {one.exposure for one in outcomes if one.exposure is not None}
        self._find_places(wanted)
        new = self._expose(exposures)
        self._load_units(outcomes)
        self._enrol(new)
        self._complete(completions)
        post_pairs(self._connection, self._books, self._entry, pairs, self._places)
        statuses = self._record(outcomes)
        for index, one in records.items():
            match one:
                case Outcomes():
                    answers[index] = [next(statuses) for _ in one.outcomes]
                case Expiry():
                    erasure.expire(self._connection, one)
        self._books.close()

    def _find_places(self, wanted: Iterable[bytes]) -> None:
        columns = EXPOSURES.c
        for id_, phase, unit, is_forced in self._bulk.find(
            (columns.id, columns.phase, columns.unit, columns.is_forced),
            self._entry.id,
            (columns.id,),
            sorted(wanted),
        ):
            self._places[bytes(id_)] = Place(phase, bytes(unit), bool(is_forced))

    def _expose(self, exposures: Sequence[Exposure]) -> list[Exposure]:
        """Write the exposures that are not there yet, and return them."""
        new: dict[bytes, Exposure] = {}
        for one in exposures:
            if one.id not in self._places:
                new[one.id] = one
                self._places[one.id] = Place(one.phase, one.unit, one.is_forced)
        rows = [
            (
                self._entry.id,
                one.id,
                one.phase,
                one.unit,
                one.variant,
                one.is_forced,
                one.recipe_version,
                one.model_digest,
                one.seed,
                one.instruction_tokens,
                one.instruction,
                one.at,
            )
            for one in new.values()
        ]
        self._bulk.insert(EXPOSURES, rows)
        return list(new.values())

    def _load_units(self, outcomes: Sequence[Outcome]) -> None:
        units = {one.unit for one in outcomes if one.unit is not None}
        self._books.load_units(self._entry, units)
        places = (place for place in self._places.values() if not place.is_forced)
        self._books.load(self._entry, ((place.phase, place.unit) for place in places))

    def _enrol(self, new: Sequence[Exposure]) -> None:
        for one in new:
            if not one.is_forced:
                self._books.enrol(
                    self._entry, one.phase, one.unit, one.variant, one.instruction_tokens
                )
        self._adopt(new)

    def _adopt(self, new: Sequence[Exposure]) -> None:
        """Count outcomes that came before the exposure, or before the unit."""
        is_orphan = "is_orphan"
        if not new or not self._bulk.has(OUTCOMES, self._entry.id, is_orphan, index=ORPHANS_INDEX):
            return
        rows = []
        by_unit = {one.unit: one for one in new if not one.is_forced}
        for column, keys, index in (
            (OUTCOMES.c.exposure, [one.id for one in new], ORPHANS_INDEX),
            (OUTCOMES.c.unit, list(by_unit), UNIT_INDEX),
        ):
            for key, exposure, unit, name, value in self._bulk.find(
                _CONTENT, self._entry.id, (column,), keys, condition=is_orphan, index=index
            ):
                if exposure is not None:
                    place = self._places[bytes(exposure)]
                else:
                    place = self._places[by_unit[bytes(unit)].id]
                rows.append((False, place.unit, place.phase, self._entry.id, key))
                self._add(place, name, value)
        changes = ("is_orphan", "unit", "phase")
        self._bulk.update(OUTCOMES, changes, ("experiment", "key"), rows)
        self._books.count(self._entry, "orphans", -len(rows))

    def _complete(self, completions: Sequence[Completion]) -> None:
        columns = COMPLETIONS.c
        wanted = sorted({one.exposure for one in completions})
        found = self._bulk.find((columns.exposure,), self._entry.id, (columns.exposure,), wanted)
        known = {bytes(exposure) for (exposure,) in found}
        rows, texts = [], []
        for one in completions:
            place = self._places.get(one.exposure)
            if one.exposure in known or place is None:
                continue
            known.add(one.exposure)
            outcomes = json.dumps(one.outcomes, separators=(",", ":"))
            rows.append((self._entry.id, one.exposure, outcomes, one.finish_reason, one.at))
            for name, value in one.outcomes.items():
                self._add(place, name, value)
            if one.text is not None:
                # PostgreSQL keeps no NUL in a text.
                *kept, until = one.text
                kept = [part.replace("\0", "\ufffd") for part in kept]
                texts.append((self._entry.id, one.exposure, *kept, until))
        self._bulk.insert(COMPLETIONS, rows)
        self._bulk.insert(TEXTS, texts)

    def _record(self, outcomes: Sequence[Outcome]) -> Iterator[OutcomeStatus]:
        known: dict[bytes, tuple[object, ...]] = {}
        wanted = sorted({one.key for one in outcomes})
        for key, exposure, unit, name, value in self._bulk.find(
            _CONTENT, self._entry.id, (OUTCOMES.c.key,), wanted
        ):
            known[bytes(key)] = (_bytes(exposure), _bytes(unit), name, value)
        statuses, rows = [], []
        for one in outcomes:
            # What names an exposure is that exposure's, whatever unit it turns out to be of.
            content = (one.exposure, one.unit, one.name, one.value)
            if one.key in known:
                before = known[one.key]
                same = before[0] == one.exposure and before[2:] == content[2:]
                same = same and (one.exposure is not None or before[1] == one.unit)
                statuses.append(OutcomeStatus.DUPLICATE if same else OutcomeStatus.CONFLICT)
                continue
            known[one.key] = content
            place = self._place(one)
            if place is None:
                statuses.append(OutcomeStatus.ORPHAN)
                self._books.count(self._entry, "orphans")
            else:
                statuses.append(OutcomeStatus.RECORDED)
                self._add(place, one.name, one.value)
            if one.is_skewed:
                self._books.count(self._entry, "skewed")
            rows.append(
                (
                    self._entry.id,
                    one.key,
                    one.exposure,
                    one.unit if place is None else place.unit,
                    0 if place is None else place.phase,
                    one.name,
                    one.value,
                    one.at,
                    place is None,
                )
            )
        self._bulk.insert(OUTCOMES, rows)
        return iter(statuses)

    def _place(self, outcome: Outcome) -> Place | None:
        if outcome.exposure is not None:
            return self._places.get(outcome.exposure)
        assert outcome.unit is not None
        phases = self._books.phases(self._entry, outcome.unit)
        if not phases:
            return None
        # What came late is still of the phase it happened in, if the unit was there.
        begun = {one.number: one.start or 0.0 for one in self._entry.experiment.phases}
        then = [phase for phase in phases if begun.get(phase, 0.0) <= outcome.at]
        return Place(then[-1] if then else phases[0], outcome.unit, is_forced=False)

    def _add(self, place: Place, name: str, value: float) -> None:
        """Count a value in its unit, unless it was forced into its variant."""
        if place.is_forced:
            return
        row = self._books.get(self._entry, place.phase, place.unit)
        if row is not None:
            row.add(self._entry.experiment, name, value)


def _bytes(value: bytes | None) -> bytes | None:
    """Read a binary column; some drivers give a view of it."""
    return None if value is None else bytes(value)


_CONTENT: Sequence[Column[Any]] = (
    OUTCOMES.c.key,
    OUTCOMES.c.exposure,
    OUTCOMES.c.unit,
    OUTCOMES.c.name,
    OUTCOMES.c.value,
)
