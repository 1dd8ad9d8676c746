"""Takes rows out: a unit that is to be forgotten, rows that were kept for long enough."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, select

from bosal_server.experiments.books import Books
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.pairing import uncount_pairs
from bosal_server.experiments.records import Entry, Expiry, Removal, Removed
from bosal_server.experiments.tables import (
    COMPLETIONS,
    EXPOSURES,
    OUTCOMES,
    PAIRS,
    TEXTS,
    UNIT_INDEX,
    UNITS,
)

__all__ = ["expire", "remove"]

# Tables that hold something of an exposure, and what they call it.
_OF_EXPOSURES = (
    (COMPLETIONS, "exposure"),
    (TEXTS, "exposure"),
    (PAIRS, "exposure"),
    (EXPOSURES, "id"),
)


def remove(connection: Connection, removal: Removal) -> Removed:
    """Forget a unit: its rows, and what it added to the sums."""
    entry, unit = removal.entry, removal.unit
    books = Books(connection)
    books.load_units(entry, [unit])
    for phase in books.phases(entry, unit):
        books.remove(entry, phase, unit)
    columns = EXPOSURES.c
    query = select(columns.id).where(columns.experiment == entry.id, columns.unit == unit)
    exposures = [bytes(id_) for (id_,) in connection.execute(query)]
    orphans = Bulk(connection).find(
        (OUTCOMES.c.key,), entry.id, (OUTCOMES.c.unit,), [unit],
        condition="is_orphan", index=UNIT_INDEX,
    )  # fmt: skip
    books.count(entry, "orphans", -len(list(orphans)))
    outcomes = connection.execute(
        delete(OUTCOMES).where(OUTCOMES.c.experiment == entry.id, OUTCOMES.c.unit == unit)
    ).rowcount
    uncount_pairs(connection, books, entry, exposures)
    _delete_exposures(connection, entry, exposures)
    books.close()
    return Removed(len(exposures), outcomes)


def expire(connection: Connection, expiry: Expiry) -> None:
    """Delete rows; the sums stay."""
    _delete_exposures(connection, expiry.entry, expiry.exposures)
    keys = [(expiry.entry.id, key) for key in expiry.outcome_keys]
    Bulk(connection).delete(OUTCOMES, ("experiment", "key"), keys)
    units = [(expiry.entry.id, *unit) for unit in expiry.units]
    Bulk(connection).delete(UNITS, ("experiment", "phase", "unit"), units)


def _delete_exposures(connection: Connection, entry: Entry, exposures: Iterable[bytes]) -> None:
    rows = [(entry.id, id_) for id_ in exposures]
    for table, name in _OF_EXPOSURES:
        Bulk(connection).delete(table, ("experiment", name), rows)
