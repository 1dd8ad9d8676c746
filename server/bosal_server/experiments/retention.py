"""What has been kept for as long as it may be."""

from sqlalchemy import delete, select

from bosal_server.database import Database
from bosal_server.experiments.records import Entry, Expiry
from bosal_server.experiments.tables import EXPOSURES, OUTCOMES, TEXTS

__all__ = ["expired"]

_AT_ONCE = 1000


def expired(database: Database, entry: Entry, now: float) -> Expiry | None:
    """Return some rows to delete; None: there are none. Texts go here and now.

    Units and sums stay: they hold no request, and the report is made of them.
    """
    limit = now - entry.experiment.retention.total_seconds()
    with database.write() as connection:
        connection.execute(
            delete(TEXTS).where(TEXTS.c.experiment == entry.id, TEXTS.c.expires < now)
        )
    with database.read() as connection:
        exposures, outcomes = (
            [
                bytes(key)
                for (key,) in connection.execute(
                    select(key)
                    .where(table.c.experiment == entry.id, table.c.at < limit)
                    .limit(_AT_ONCE)
                )
            ]
            for table, key in ((EXPOSURES, EXPOSURES.c.id), (OUTCOMES, OUTCOMES.c.key))
        )
    if not exposures and not outcomes:
        return None
    return Expiry(entry, exposures, outcomes)
