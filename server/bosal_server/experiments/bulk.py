"""Many rows to a statement, handed to the driver as they are.

SQLAlchemy looks at every value on its way; at thousands of rows a second that costs more than the
database does. So the writer's statements are text, for SQLite and PostgreSQL alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Table

__all__ = ["Bulk", "parts"]

Key = TypeVar("Key")


class Bulk:
    """Reads and writes rows by the columns that tell them apart, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"

    def insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write new rows; values are in the order of the table's columns."""
        marks = ", ".join([self._mark] * len(table.columns))
        names = ", ".join(column.name for column in table.columns)
        self._many(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows)

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
            found = self._connection.exec_driver_sql(
                f"SELECT {names} FROM {table} WHERE experiment = {self._mark} "
                f"AND {among}{' AND ' * bool(condition)}{condition}",
                (experiment, *values),
            )
            yield from (tuple(row_) for row_ in found.all())

    def _where(self, keys: Sequence[str]) -> str:
        return " AND ".join(f"{name} = {self._mark}" for name in keys)

    def _many(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            self._connection.exec_driver_sql(statement, list(rows))


def parts(keys: Sequence[Key]) -> Iterable[Sequence[Key]]:
    """Cut what an IN would hold into pieces every database takes."""
    return (keys[start : start + 1000] for start in range(0, len(keys), 1000))
