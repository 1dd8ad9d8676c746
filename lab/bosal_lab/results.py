"""The results database: one suite version, its arms, their answers and scores, in SQLite."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bosal_client.requests import Message
from bosal_lab.evaluation_errors import ArmError, ResultsError, SuiteVersionError
from bosal_lab.item import Item, Score, Suite
from bosal_lab.record import Arm, Record

__all__ = ["Results"]

SCHEMA = 1

_TABLES = """
CREATE TABLE suite (schema INTEGER, name TEXT, version TEXT);
CREATE TABLE run (started TEXT DEFAULT CURRENT_TIMESTAMP, command TEXT, server TEXT);
CREATE TABLE item (position INTEGER PRIMARY KEY, id TEXT UNIQUE, document TEXT);
CREATE TABLE arm (
    position INTEGER PRIMARY KEY, name TEXT UNIQUE, model TEXT, model_digest TEXT, recipe TEXT,
    recipe_version TEXT, recipe_document TEXT, pinned TEXT, max_tokens INTEGER, noise TEXT);
CREATE TABLE answer (
    arm TEXT, item TEXT, sample INTEGER, seed INTEGER, error TEXT, text TEXT, earlier TEXT,
    token_ids TEXT, ranks TEXT, finish_reason TEXT, matched_stop TEXT, started TEXT, timings TEXT,
    PRIMARY KEY (arm, item, sample)) WITHOUT ROWID;
CREATE TABLE score (
    arm TEXT, item TEXT, sample INTEGER, metric TEXT, value REAL,
    PRIMARY KEY (arm, item, sample, metric)) WITHOUT ROWID;
CREATE TABLE plain_rank (
    arm TEXT, item TEXT, sample INTEGER, ranks TEXT, PRIMARY KEY (arm, item, sample)) WITHOUT ROWID;
CREATE TABLE floor (
    name TEXT, item TEXT, value REAL, PRIMARY KEY (name, item)) WITHOUT ROWID;
"""


class Results:
    """A results database. A crash of the process loses no answer that was added."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path, suite: Suite) -> Self:
        """Open the database of a suite, made if need be; another suite's is refused."""
        with _reading(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        results = cls._opened(path)
        try:
            with _reading(path):
                if results._is_empty():
                    results._lay_out(suite)
                recorded, wanted = results.suite, (suite.name, suite.version)
            if recorded != wanted:
                raise SuiteVersionError(path, "@".join(recorded), "@".join(wanted))
        except BaseException:
            results.close()
            raise
        return results

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database that exists."""
        if not path.is_file():
            raise ResultsError(path, "there is no such file; `bosal eval run` makes one")
        results = cls._opened(path)
        try:
            with _reading(path):
                if results._is_empty():
                    raise ResultsError(path, "it holds no results")
        except BaseException:
            results.close()
            raise
        return results

    @classmethod
    def _opened(cls, path: Path) -> Self:
        with _reading(path):
            connection = sqlite3.connect(path, timeout=30)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                # A crash of this process loses nothing; a power cut the last answers at most.
                connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def suite(self) -> tuple[str, str]:
        """Name and version of the suite."""
        name, version = self._connection.execute("SELECT name, version FROM suite").fetchone()
        return name, version

    @cached_property
    def items(self) -> dict[str, Item]:
        """Every item of the suite by id, in the suite's order."""
        rows = self._connection.execute("SELECT document FROM item ORDER BY position")
        return {item.id: item for item in (_item(json.loads(row[0])) for row in rows)}

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Every run that added to this database: when, which command, which server."""
        rows = self._connection.execute("SELECT started, command, server FROM run ORDER BY rowid")
        return [{"started": row[0], "command": row[1], **json.loads(row[2])} for row in rows]

    @property
    def arms(self) -> dict[str, Arm]:
        """Every arm by name, in the order they were added."""
        names = ", ".join(Arm.__dataclass_fields__)
        rows = self._connection.execute(f"SELECT {names} FROM arm ORDER BY position")
        found = (dict(zip(Arm.__dataclass_fields__, row, strict=True)) for row in rows)
        return {
            row["name"]: Arm(**row | {"recipe_document": json.loads(row["recipe_document"])})
            for row in found
        }

    def arm(self, name: str) -> Arm:
        arms = self.arms
        if name not in arms:
            raise ArmError.unknown("arm", name, arms)
        return arms[name]

    def start_run(self, command: str, server: Mapping[str, Any]) -> None:
        with self._connection:
            self._connection.execute(
                "INSERT INTO run (command, server) VALUES (?, ?)", (command, json.dumps(server))
            )

    def add_arm(self, arm: Arm) -> None:
        document = json.dumps(arm.recipe_document, ensure_ascii=False)
        row = [document if name == "recipe_document" else getattr(arm, name) for name in _ARM]
        with self._connection:
            self._connection.execute(
                f"INSERT INTO arm ({', '.join(_ARM)}) VALUES ({_marks(_ARM)})", row
            )

    def add(self, record: Record, score: Score | None) -> None:
        """Store one answer with its score, both or neither; an earlier error is replaced."""
        key = (record.arm, record.item, record.sample)
        metrics = score.metrics() if score is not None else {}
        with self._connection:
            self._connection.execute(
                f"INSERT OR REPLACE INTO answer ({', '.join(_RECORD)}) VALUES ({_marks(_RECORD)})",
                [_plain(getattr(record, name)) for name in _RECORD],
            )
            self._connection.execute(
                "DELETE FROM score WHERE arm = ? AND item = ? AND sample = ?", key
            )
            self._connection.executemany(
                "INSERT INTO score VALUES (?, ?, ?, ?, ?)",
                [(*key, metric, value) for metric, value in metrics.items()],
            )

    def set_floor(self, name: str, values: Mapping[str, float | None]) -> None:
        """Store what trivial answers to each item are worth; an earlier floor is replaced."""
        with self._connection:
            self._connection.execute("DELETE FROM floor WHERE name = ?", (name,))
            self._connection.executemany(
                "INSERT INTO floor VALUES (?, ?, ?)",
                [(name, item, value) for item, value in values.items()],
            )

    @property
    def floors(self) -> dict[str, dict[str, float | None]]:
        """Every floor's value by item."""
        found: dict[str, dict[str, float | None]] = {}
        for name, item, value in self._connection.execute("SELECT * FROM floor"):
            found.setdefault(name, {})[item] = value
        return found

    def set_plain_ranks(self, ranked: Iterable[tuple[Record, tuple[int, ...]]]) -> None:
        """Store the ranks of answers' tokens under the plain model."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO plain_rank VALUES (?, ?, ?, ?)",
                [
                    (record.arm, record.item, record.sample, json.dumps(ranks))
                    for record, ranks in ranked
                ],
            )

    def plain_ranks(self) -> dict[tuple[str, str, int], tuple[int, ...]]:
        """Return ranks under the plain model by (arm, item, sample)."""
        rows = self._connection.execute("SELECT * FROM plain_rank")
        return {(arm, item, sample): tuple(json.loads(ranks)) for arm, item, sample, ranks in rows}

    def done(self, *, with_errors: bool) -> set[tuple[str, str, int]]:
        """Return (arm, item, sample) of every answer, and of every error if asked."""
        condition = "" if with_errors else " WHERE error = ''"
        rows = self._connection.execute(f"SELECT arm, item, sample FROM answer{condition}")
        return {(arm, item, sample) for arm, item, sample in rows}

    def records(self, arm: str) -> Iterator[Record]:
        """Return an arm's answers and errors, by item in the suite's order, then by sample."""
        names = ", ".join(f"answer.{name}" for name in _RECORD)
        rows = self._connection.execute(
            f"SELECT {names} FROM answer JOIN item ON item.id = answer.item "
            "WHERE arm = ? ORDER BY item.position, sample",
            (arm,),
        )
        for row in rows:
            values = dict(zip(_RECORD, row, strict=True))
            for name in ("earlier", "token_ids", "ranks"):
                values[name] = tuple(json.loads(values[name]))
            for name in ("started", "timings"):
                values[name] = json.loads(values[name])
            yield Record(**values)

    def scores(self, arm: str, metric: str) -> dict[tuple[str, int], float | None]:
        """Return one metric by (item, sample); None where the scorer gave no verdict."""
        rows = self._connection.execute(
            "SELECT item, sample, value FROM score WHERE arm = ? AND metric = ?", (arm, metric)
        )
        return {(item, sample): value for item, sample, value in rows}

    def unscored(self, arm: str) -> dict[str, int]:
        """Return, by metric, how many answers the scorer could not judge."""
        rows = self._connection.execute(
            "SELECT metric, COUNT(*) FROM score WHERE arm = ? AND value IS NULL "
            "GROUP BY metric ORDER BY metric",
            (arm,),
        )
        return dict(rows.fetchall())

    def metrics(self) -> list[str]:
        rows = self._connection.execute("SELECT DISTINCT metric FROM score ORDER BY metric")
        return [row[0] for row in rows]

    def _is_empty(self) -> bool:
        tables = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {row[0] for row in tables}
        if names and not {"suite", "arm", "answer", "score"} <= names:
            raise ResultsError(self.path, "it is a database of something else")
        if names:
            (schema,) = self._connection.execute("SELECT schema FROM suite").fetchone()
            if schema != SCHEMA:
                raise ResultsError(self.path, f"its layout is {schema}, this program's is {SCHEMA}")
        return not names

    def _lay_out(self, suite: Suite) -> None:
        documents = [json.dumps(item.document(), ensure_ascii=False) for item in suite.items]
        script = self._connection.cursor()
        # One transaction: a crash leaves an empty file or a whole one.
        script.execute("BEGIN IMMEDIATE")
        for statement in filter(None, map(str.strip, _TABLES.split(";"))):
            script.execute(statement)
        script.execute("INSERT INTO suite VALUES (?, ?, ?)", (SCHEMA, suite.name, suite.version))
        script.executemany(
            "INSERT INTO item (id, document) VALUES (?, ?)",
            [(item.id, text) for item, text in zip(suite.items, documents, strict=True)],
        )
        self._connection.commit()


_ARM = tuple(Arm.__dataclass_fields__)
_RECORD = tuple(Record.__dataclass_fields__)


def _marks(names: Iterable[str]) -> str:
    return ", ".join("?" for _ in names)


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)


def _item(document: dict[str, Any]) -> Item:
    messages = tuple(Message(role, text) for role, text in document.pop("messages"))
    return Item(**document, messages=messages)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise ResultsError(path, str(error)) from error
