"""The experiments there are: kept in the database, known to this process, changed by anyone."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from sqlalchemy import Connection, insert, select, update

from bosal_server.database import Database, advance, revision
from bosal_server.experiments.definition import check_apart, check_definition
from bosal_server.experiments.errors import ExperimentExists, StaleEtag, UnknownExperiment
from bosal_server.experiments.experiment import Experiment
from bosal_server.experiments.records import Entry
from bosal_server.experiments.tables import AUDIT, EXPERIMENTS, TOPIC
from bosal_server.recipe_archive import require

__all__ = ["AuditEvent", "Catalogue", "Change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who changes an experiment, and why."""

    action: str
    actor: str = ""
    reason: str = ""
    # "": whatever it is.
    etag: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One change that was made."""

    id: int
    experiment: str
    at: float
    actor: str
    action: str
    reason: str
    # JSON.
    details: str


class Catalogue:
    """Reads are of this process's memory; `refresh` brings in what others changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: Mapping[str, Entry] = {}
        self._revision = -1
        # Held from what is read to what is known by it: an older reading must not come last.
        self._lock = Lock()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, name: str, *, field: str = "name") -> Entry:
        """Return an experiment as this process knows it."""
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownExperiment(name, self._entries, field=field)
        return entry

    def refresh(self) -> bool:
        """Read everything anew if anything has changed; say whether it had."""
        with self._lock, self._database.read() as connection:
            now = revision(connection, TOPIC)
            if now == self._revision:
                return False
            self._read(connection, now)
        return True

    def create(self, experiment: Experiment, request_id: str, change: Change, now: float) -> Entry:
        """Keep a checked experiment; the same request again returns what it made."""
        check_definition(experiment)
        with self._lock:
            return self._create(experiment, request_id, change, now)

    def _create(self, experiment: Experiment, request_id: str, change: Change, now: float) -> Entry:
        with self._database.write() as connection:
            advance(connection, TOPIC)
            # Until this transaction has ended nobody knows which revision it made.
            self._read(connection, -1)
            known = self._entries.get(experiment.name)
            if known is not None:
                made_by = select(EXPERIMENTS.c.request_id).where(EXPERIMENTS.c.id == known.id)
                if request_id and connection.execute(made_by).scalar() == request_id:
                    return known
                raise ExperimentExists(experiment.name)
            check_apart(experiment, {e.experiment.name: e.experiment for e in self})
            for side in experiment.sides:
                if side.is_named:
                    # From here on nobody can archive it.
                    require(connection, side.recipe_name, side.recipe_version, field="variants")
            id_ = connection.execute(
                insert(EXPERIMENTS).values(
                    name=experiment.name,
                    document=experiment.model_dump_json(),
                    revision=experiment.revision,
                    request_id=request_id,
                )
            ).inserted_primary_key
            assert id_ is not None
            _audit(connection, experiment.name, change, now)
            entry = Entry(int(id_[0]), experiment)
        self._entries = {**self._entries, experiment.name: entry}
        return entry

    def change(
        self, name: str, step: Callable[[Experiment], Experiment], change: Change, now: float
    ) -> Entry:
        """Take one step of an experiment's life, whole or not at all.

        Raises:
            StaleEtag: it has changed since the change's etag was read.
        """
        with self._lock:
            return self._change(name, step, change, now)

    def _change(
        self, name: str, step: Callable[[Experiment], Experiment], change: Change, now: float
    ) -> Entry:
        with self._database.write() as connection:
            advance(connection, TOPIC)
            # Until this transaction has ended nobody knows which revision it made.
            self._read(connection, -1)
            entry = self.get(name, field="change.name")
            experiment = entry.experiment
            if change.etag and change.etag != experiment.etag:
                raise StaleEtag(name, change.etag, experiment.etag)
            changed = step(experiment).model_copy(update={"revision": experiment.revision + 1})
            check_apart(changed, {e.experiment.name: e.experiment for e in self})
            connection.execute(
                update(EXPERIMENTS)
                .where(EXPERIMENTS.c.id == entry.id)
                .values(document=changed.model_dump_json(), revision=changed.revision)
            )
            _audit(connection, name, change, now)
        entry = Entry(entry.id, changed)
        self._entries = {**self._entries, name: entry}
        return entry

    def note(self, name: str, change: Change, now: float) -> None:
        """Write to the audit what changed no experiment."""
        with self._database.write() as connection:
            _audit(connection, name, change, now)

    def events(self, name: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Return the newest events older than event `before` (0: all), of one experiment or all."""
        query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if name:
            query = query.where(AUDIT.c.experiment == name)
        if before:
            query = query.where(AUDIT.c.id < before)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [AuditEvent(**row) for row in rows]

    @staticmethod
    def read(connection: Connection) -> list[Experiment]:
        """Read every experiment as a transaction sees it."""
        documents = connection.execute(select(EXPERIMENTS.c.document)).scalars()
        return [Experiment.model_validate_json(document) for document in documents]

    def _read(self, connection: Connection, number: int) -> None:
        found: dict[str, Entry] = {}
        columns = EXPERIMENTS.c
        query = select(columns.id, columns.name, columns.revision, columns.document)
        for id_, name, number_, document in connection.execute(query.order_by(columns.name)):
            known = self._entries.get(name)
            if known is None or known.experiment.revision != number_:
                known = Entry(id_, Experiment.model_validate_json(document))
            found[name] = known
        self._entries = found
        self._revision = number


def _audit(connection: Connection, name: str, change: Change, now: float) -> None:
    connection.execute(
        insert(AUDIT).values(
            experiment=name,
            at=now,
            actor=change.actor,
            action=change.action,
            reason=change.reason,
            details=json.dumps(dict(change.details)) if change.details else "",
        )
    )
