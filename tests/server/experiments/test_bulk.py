"""Many rows to a statement: each arrives once, on SQLite and PostgreSQL alike."""

import pytest
from sqlalchemy import select

from bosal_server.database import Database
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.tables import TEXTS, TOTALS


@pytest.mark.parametrize("number", [0, 1, 63, 64, 65, 200])
def test_every_row_is_written_in_its_columns(database: Database, number: int) -> None:
    rows = [(1, f"{index:016}".encode(), "what?", f"it's {index}", 0.5) for index in range(number)]
    with database.write() as connection:
        Bulk(connection).insert(TEXTS, rows)
    with database.read() as connection:
        found = connection.execute(select(TEXTS).order_by(TEXTS.c.exposure)).all()
    assert [(one, bytes(id_), *rest) for one, id_, *rest in found] == rows


def test_a_row_put_replaces_the_one_with_its_key(database: Database) -> None:
    with database.write() as connection:
        bulk = Bulk(connection)
        bulk.put(TOTALS, [(1, 1, 0, f"m{index}", "[0]") for index in range(70)])
        bulk.put(TOTALS, [(1, 1, 0, f"m{index}", "[1]") for index in range(60, 80)])
    with database.read() as connection:
        found = {row.name: row.numbers for row in connection.execute(select(TOTALS))}
    assert found == {f"m{index}": "[1]" if index >= 60 else "[0]" for index in range(80)}
