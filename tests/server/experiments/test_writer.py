"""The thread that writes: what it promises when the store fails, and when a record is bad."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text
from tests.server.experiments.test_ledger import (
    RECORDED,
    exposure,
    outcome,
    outcomes,
)

from bosal_server.database import Database, DatabaseUnavailable
from bosal_server.experiments import ledger
from bosal_server.experiments import writer as writer_module
from bosal_server.experiments.records import Record
from bosal_server.experiments.tables import EXPOSURES, OUTCOMES
from bosal_server.experiments.writer import Writer


@contextmanager
def writing(file: Path, post: Any = ledger.post) -> Iterator[Writer]:
    database = Database.open(str(file))
    writer = Writer(database, post)
    writer.start()
    try:
        yield writer
    finally:
        writer.close()
        database.close()


def kept(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return int(connection.execute("SELECT count(*) FROM experiment_exposures").fetchone()[0])


def until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came true")


def test_many_records_share_a_commit(tmp_path: Path) -> None:
    sizes = []

    def counting(connection: Connection, records: Sequence[Record]) -> Sequence[Any]:
        sizes.append(len(records))
        return ledger.post(connection, records)

    with writing(tmp_path / "db", counting) as writer:
        for index in range(3000):
            assert writer.offer(exposure(f"a{index}", f"u{index}"))
    assert kept(tmp_path / "db") == sum(sizes) == 3000
    assert len(sizes) < 30


def test_a_flush_is_over_once_what_waited_is_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "bosal.db"
    with writing(file) as writer:
        assert writer.offer(exposure("a", "u"))
        asyncio.run(writer.flush())
        assert kept(file) == 1


def test_an_answer_comes_after_the_commit(tmp_path: Path) -> None:
    file = tmp_path / "db"

    async def check(writer: Writer) -> None:
        writer.offer(exposure("a", "u"))
        assert await writer.submit(outcomes(outcome("k", exposed="a"))) == [RECORDED]
        # Another connection sees it: it is committed.
        assert kept(file) == 1

    with writing(file) as writer:
        asyncio.run(check(writer))


def test_one_bad_record_spoils_no_other(tmp_path: Path) -> None:
    with writing(tmp_path / "db") as writer:
        for index in range(20):
            # Beyond any integer column.
            seed = 2**80 if index == 7 else index
            writer.offer(exposure(f"a{index}", f"u{index}", seed=seed))
    assert kept(tmp_path / "db") == 19
    assert writer.num_lost == 1


def test_a_locked_database_refuses_outcomes_and_keeps_exposures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_server.database._BUSY_MS", 50)
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", 0.05)
    file = tmp_path / "db"

    async def check(writer: Writer) -> None:
        with sqlite3.connect(file, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            assert writer.offer(exposure("a", "u"))
            with pytest.raises(DatabaseUnavailable, match="locked"):
                await writer.submit(outcomes(outcome("k", exposed="a")))
            assert not writer.is_accepting
            assert not writer.offer(exposure("b", "u"))
            other.execute("ROLLBACK")
        await asyncio.to_thread(until, lambda: writer.is_accepting)
        assert await writer.submit(outcomes(outcome("k", exposed="a"))) == [RECORDED]

    with writing(file) as writer:
        asyncio.run(check(writer))
    assert kept(file) == 1


def test_a_full_disk_is_a_failing_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", 0.05)
    database = Database.open(str(tmp_path / "db"))
    is_full = threading.Event()

    def post(connection: Connection, records: Sequence[Record]) -> Sequence[Any]:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        limit = pages if is_full.is_set() else 10**9
        connection.execute(text(f"PRAGMA max_page_count = {limit}"))
        return ledger.post(connection, records)

    writer = Writer(database, post)
    writer.start()
    is_full.set()
    for index in range(2000):
        writer.offer(exposure(f"a{index}", f"u{index}"))
    until(lambda: not writer.is_accepting)
    is_full.clear()
    until(lambda: writer.is_accepting and not writer.num_waiting)
    writer.close()
    with database.read() as connection:
        rows = connection.execute(select(func.count()).select_from(EXPOSURES)).scalar()
    database.close()
    # All that was taken is there, though the disk was full in between.
    assert rows is not None
    assert rows == writer.num_written


def test_a_database_that_can_only_be_read_refuses_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", 0.05)

    def post(connection: Connection, records: Sequence[Record]) -> Sequence[Any]:
        connection.execute(text("PRAGMA query_only = ON"))
        return ledger.post(connection, records)

    async def check(writer: Writer) -> None:
        writer.offer(exposure("a", "u"))
        with pytest.raises(DatabaseUnavailable, match="readonly"):
            await writer.submit(outcomes(outcome("k", exposed="a")))
        assert not writer.is_accepting

    with writing(tmp_path / "db", post) as writer:
        asyncio.run(check(writer))


def test_a_queue_that_is_full_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MAX_WAITING", 10)
    database = Database.open(str(tmp_path / "db"))
    writer = Writer(database, ledger.post)  # not started: nothing leaves the queue
    taken = [writer.offer(exposure(f"a{i}", f"u{i}")) for i in range(12)]
    assert taken == [True] * 10 + [False] * 2
    # What belongs to a record that was taken has room of its own.
    for _ in range(11):
        writer.follow(outcomes())
    assert (writer.num_waiting, writer.num_lost) == (20, 1)
    database.close()


def test_a_caller_who_leaves_at_the_last_moment_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving(Future[Any]):
        """A future whose caller gives up just as the answer comes."""

        def set_result(self, result: Any) -> None:
            self.cancel()
            super().set_result(result)

    monkeypatch.setattr(writer_module, "Future", Leaving)

    async def check(writer: Writer) -> None:
        for name in "abc":
            writer.offer(exposure(name, "u"))
            await writer.submit(outcomes(outcome(name, exposed=name)))
            await writer.flush()

    with writing(tmp_path / "db") as writer:
        asyncio.run(asyncio.wait_for(check(writer), 30))
    assert kept(tmp_path / "db") == 3


def test_what_a_caller_gave_up_is_written_all_the_same(tmp_path: Path) -> None:
    async def check(writer: Writer) -> None:
        writer.offer(exposure("a", "u"))
        told = outcomes(outcome("k", exposed="a"))
        call = asyncio.create_task(writer.submit(told))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        writer.start()
        await writer.flush()

    database = Database.open(str(tmp_path / "db"))
    writer = Writer(database, ledger.post)  # not started: nobody answers yet
    asyncio.run(check(writer))
    writer.close()
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(OUTCOMES)).scalar() == 1
    database.close()
