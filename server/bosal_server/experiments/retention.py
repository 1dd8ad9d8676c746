"""What has been kept for as long as it may be."""

from sqlalchemy import delete, select, tuple_

from bosal_server.database import Database
from bosal_server.experiments.records import Entry, Expiry
from bosal_server.experiments.tables import EXPOSURES, OUTCOMES, TEXTS, UNITS

__all__ = ["Expired"]

_AT_ONCE = 1000


class Expired:
    """Goes through an experiment's rows once and finds those to delete, some at a time.

    Sums stay: they hold no unit. The units themselves go when the experiment has been over for as
    long as its rows are kept: until then their later outcomes change the sums.
    """

    def __init__(self, database: Database, entry: Entry, now: float) -> None:
        self._database = database
        self._entry = entry
        self._now = now
        # Keys of the rows that were found last.
        self._exposure = self._outcome = b""
        self._unit = (0, b"")

    def next(self) -> Expiry | None:
        """Return some rows to delete; None: there are no more. Texts go here and now."""
        experiment = self._entry.experiment
        limit = self._now - experiment.retention.total_seconds()
        with self._database.write() as connection:
            connection.execute(
                delete(TEXTS).where(
                    TEXTS.c.experiment == self._entry.id, TEXTS.c.expires < self._now
                )
            )
        with self._database.read() as connection:
            exposures, outcomes = (
                [
                    bytes(key)
                    for (key,) in connection.execute(
                        select(key)
                        .where(table.c.experiment == self._entry.id, key > last, table.c.at < limit)
                        .order_by(key)
                        .limit(_AT_ONCE)
                    )
                ]
                for table, key, last in (
                    (EXPOSURES, EXPOSURES.c.id, self._exposure),
                    (OUTCOMES, OUTCOMES.c.key, self._outcome),
                )
            )
            units = []
            if experiment.is_over and (experiment.phase.end or self._now) < limit:
                key = tuple_(UNITS.c.phase, UNITS.c.unit)
                query = select(UNITS.c.phase, UNITS.c.unit).where(
                    UNITS.c.experiment == self._entry.id, key > tuple_(*self._unit)
                )
                found = connection.execute(query.order_by(*key).limit(_AT_ONCE))
                units = [(phase, bytes(unit)) for phase, unit in found]
        if not (exposures or outcomes or units):
            return None
        self._exposure = exposures[-1] if exposures else self._exposure
        self._outcome = outcomes[-1] if outcomes else self._outcome
        self._unit = units[-1] if units else self._unit
        return Expiry(self._entry, exposures, outcomes, units)
