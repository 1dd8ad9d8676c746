"""What the writer's statements read: rows they look for, never all that an experiment has."""

import re
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection
from tests.server.experiments.test_ledger import (
    ENTRY,
    completion,
    exposure,
    key,
    outcome,
    outcomes,
)

from bosal_server.database import Database
from bosal_server.experiments.ledger import post
from bosal_server.experiments.records import Expiry, Pair, PairKind, Pairs, Record, Removal

_BIG = re.compile(r"experiment_(exposures|completions|outcomes|pairs|units|texts)\b")


def statements(connection: Connection, records: Sequence[Record]) -> list[str]:
    """Write records; return what SQLite was asked, values in their places."""
    driver = connection.connection.driver_connection
    assert driver is not None
    said: list[str] = []
    driver.set_trace_callback(said.append)
    post(connection, records)
    driver.set_trace_callback(None)
    return [one for one in said if _BIG.search(one) and not one.startswith("--")]


@pytest.mark.parametrize(
    "records",
    [
        [exposure("c", "new"), exposure("d", "other", 1, phase=2), completion("c")],
        [completion("a"), outcomes(outcome("k1", exposed="a"), outcome("k2", exposed="nobody"))],
        [outcomes(outcome("k3", unit="u"), outcome("k4", unit="nobody"))],
        [
            Pairs(ENTRY, key("a"), [Pair(kind=PairKind.HELD, variant=v) for v in (0, 1)], 1.0),
            Pairs(ENTRY, key("b"), [Pair(kind=PairKind.HELD, variant=1)], 1.0),
        ],
        [Removal(ENTRY, key("u"))],
        [Expiry(ENTRY, [key("a"), key("b")], [key("k0")])],
    ],
    ids=["exposures", "outcomes", "by unit", "pairs", "removal", "expiry"],
)
def test_no_statement_reads_all_of_an_experiment(records: Sequence[Record]) -> None:
    database = Database.open("temporary")
    with database.write() as connection:
        post(connection, [exposure("a", "u"), exposure("b", "v", 1), completion("b")])
        post(connection, [outcomes(outcome("k0", exposed="a"), outcome("o", exposed="later"))])
        said = statements(connection, records)
        assert said
        for statement in said:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
            for *_, step in plan:
                # By the experiment alone would be everything it ever recorded.
                is_whole = step.startswith("SCAN experiment_") or step.endswith("(experiment=?)")
                if is_whole and "max(phase)" not in statement and "INDEXED BY" not in statement:
                    raise AssertionError(f"{step}: {statement[:200]}")
    database.close()
