"""Many rows to a statement, handed to the driver as they are.

SQLAlchemy looks at every statement and value on its way; that costs more than the database does.
So the writer's statements are text, for SQLite and PostgreSQL alike. SQLite's driver takes the
interpreter back after every statement, and with an engine at work it waits for its turn each time:
many rows in one statement wait once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Table
from sqlalchemy.exc import DBAPIError

__all__ = ["Bulk", "parts"]

Key = TypeVar("Key")


class Bulk:
    """Reads and writes rows by the columns that tell them apart, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._dialect = connection.dialect
        self._cursor = connection.connection.cursor()
        self._mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"

    def insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write new rows; values are in the order of the table's columns."""
        for part in _powers_of_two(rows):
            self._run(_insertion(table, len(part), self._mark), tuple(chain.from_iterable(part)))

    def put(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows as `insert` does, over those that have the same primary key."""
        for part in _powers_of_two(rows):
            statement = _insertion(table, len(part), self._mark) + _replacement(table)
            self._run(statement, tuple(chain.from_iterable(part)))

    def update(
        self,
        table: Table,
        names: Sequence[str],
        keys: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> None:
        """Change rows; values of `names` come before those of the columns that find the row."""
        changes = ", ".join(f"{name} = {self._mark}" for name in names)
        self._many(f"UPDATE {table.name} SET {changes} WHERE {self._where(keys)}", rows)

    def delete(self, table: Table, keys: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Delete the rows that the values of some columns find."""
        self._many(f"DELETE FROM {table.name} WHERE {self._where(keys)}", rows)

    def find(
        self,
        columns: Sequence[Column[Any]],
        experiment: int,
        key: Sequence[Column[Any]],
        wanted: Iterable[Any],
        *,
        condition: str = "",
        index: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """Yield columns of an experiment's rows whose key is wanted: values, or tuples of them.

        `index` names the one to go by where it is not the primary key's.
        """
        names = ", ".join(column.name for column in columns)
        table = columns[0].table.name + self._by(index)
        for equal, column, values in _groups(key, list(wanted)):
            where = "".join(f" AND {name} = {self._mark}" for name in equal)
            for part in parts(values):
                marks = ", ".join([self._mark] * len(part))
                self._run(
                    f"SELECT {names} FROM {table} WHERE experiment = {self._mark}{where} "
                    f"AND {column} IN ({marks}){' AND ' * bool(condition)}{condition}",
                    (experiment, *equal.values(), *part),
                )
                yield from self._cursor.fetchall()

    def has(self, table: Table, experiment: int, condition: str, *, index: str) -> bool:
        """Say whether a condition is true of any row of an experiment."""
        where = f"experiment = {self._mark} AND {condition}"
        self._run(f"SELECT 1 FROM {table}{self._by(index)} WHERE {where} LIMIT 1", (experiment,))
        return self._cursor.fetchone() is not None

    def highest(self, column: Column[Any], experiment: int) -> int:
        """Return the highest value of an experiment's rows; 0: it has none."""
        table = column.table.name
        where = f"experiment = {self._mark}"
        self._run(f"SELECT max({column.name}) FROM {table} WHERE {where}", (experiment,))
        found = self._cursor.fetchone()
        return int(found[0]) if found and found[0] is not None else 0

    def _by(self, index: str) -> str:
        """Name an index; SQLite knows no statistics and would read all rows of an experiment."""
        return f" INDEXED BY {index}" if index and self._dialect.name == "sqlite" else ""

    def _where(self, keys: Sequence[str]) -> str:
        return " AND ".join(f"{name} = {self._mark}" for name in keys)

    def _many(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            self._run(statement, rows, self._cursor.executemany)

    def _run(
        self,
        statement: str,
        values: Sequence[Any],
        run: Callable[[str, Sequence[Any]], object] | None = None,
    ) -> None:
        known = self._dialect.loaded_dbapi.Error
        try:
            (run or self._cursor.execute)(statement, values)
        except known as error:
            # As whoever holds the transaction expects it.
            raise DBAPIError.instance(
                statement, None, error, known, hide_parameters=True, dialect=self._dialect
            ) from error


def _groups(
    key: Sequence[Column[Any]], wanted: Sequence[Any]
) -> Iterator[tuple[dict[str, Any], str, Sequence[Any]]]:
    """Yield what is equal in some wanted keys, and the column they differ in with its values.

    SQLite would not look up rows of values in an index: it reads everything there is of the
    experiment. One column's values it does look up. Of several columns most vary in one alone.
    """
    if len(key) == 1:
        yield {}, key[0].name, wanted
        return
    varying = max(range(len(key)), key=lambda place: len({one[place] for one in wanted}))
    others = [place for place in range(len(key)) if place != varying]
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for one in wanted:
        groups.setdefault(tuple(one[place] for place in others), []).append(one[varying])
    for equal, values in groups.items():
        names = [key[place].name for place in others]
        yield dict(zip(names, equal, strict=True)), key[varying].name, values


# As many rows as a statement has: databases keep a statement they know, so there are few sizes.
_MAX_ROWS = 64


def _powers_of_two(rows: Sequence[Key]) -> Iterator[Sequence[Key]]:
    size, start = _MAX_ROWS, 0
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        yield rows[start : start + size]
        start += size


@lru_cache
def _insertion(table: Table, num_rows: int, mark: str) -> str:
    names = ", ".join(column.name for column in table.columns)
    row = "(" + ", ".join([mark] * len(table.columns)) + ")"
    return f"INSERT INTO {table.name} ({names}) VALUES {', '.join([row] * num_rows)}"


@lru_cache
def _replacement(table: Table) -> str:
    key = [column.name for column in table.primary_key]
    others = [column.name for column in table.columns if column.name not in key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in others)
    return f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"


def parts(keys: Sequence[Key]) -> Iterable[Sequence[Key]]:
    """Cut what an IN would hold into pieces every database takes."""
    return (keys[start : start + 1000] for start in range(0, len(keys), 1000))
