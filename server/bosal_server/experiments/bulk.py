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
    ) -> Iterator[tuple[Any, ...]]:
        """Yield columns of an experiment's rows whose key is wanted: values, or tuples of them."""
        table = columns[0].table
        names = ", ".join(column.name for column in columns)
        is_single = len(key) == 1
        place = ", ".join(column.name for column in key)
        row = "(" + ", ".join([self._mark] * len(key)) + ")"
        for part in parts(list(wanted)):
            if is_single:
                among = f"{place} IN ({', '.join([self._mark] * len(part))})"
                values = tuple(part)
            else:
                among = f"({place}) IN (VALUES {', '.join([row] * len(part))})"
                values = tuple(value for one in part for value in one)
            self._run(
                f"SELECT {names} FROM {table} WHERE experiment = {self._mark} "
                f"AND {among}{' AND ' * bool(condition)}{condition}",
                (experiment, *values),
            )
            yield from self._cursor.fetchall()

    def has(self, table: Table, experiment: int, condition: str) -> bool:
        """Say whether a condition is true of any row of an experiment."""
        where = f"experiment = {self._mark} AND {condition}"
        self._run(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1", (experiment,))
        return self._cursor.fetchone() is not None

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
