"""The database: made and brought up to date at start, durable, told apart when it is unusable."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import bosal_server.experiments.tables
import bosal_server.recipe_archive  # noqa: F401  # declare their tables
from bosal_server.database import (
    METADATA,
    Database,
    DatabaseUnavailable,
    InvalidDatabase,
    advance,
    default_file,
    revision,
)


def test_the_migrations_make_the_declared_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def _add(database: Database, *topics: str) -> None:
    with database.write() as connection:
        for topic in topics:
            connection.execute(text("INSERT INTO revisions VALUES (:topic, 0)"), {"topic": topic})


def test_a_write_is_kept_or_undone_as_a_whole(database: Database) -> None:
    _add(database, "kept")
    with pytest.raises(IntegrityError):
        _add(database, "undone", "kept")
    with database.read() as connection:
        topics = set(connection.execute(text("SELECT topic FROM revisions")).scalars())
    assert "kept" in topics
    assert "undone" not in topics


def test_a_reader_sees_one_state_while_another_writes(database: Database) -> None:
    rows = text("SELECT count(*) FROM revisions")
    with database.read() as reader:
        before = reader.execute(rows).scalar_one()
        _add(database, "new")
        assert reader.execute(rows).scalar_one() == before
    with database.read() as reader:
        assert reader.execute(rows).scalar_one() == before + 1
    # Whoever takes the reader's connection next may write.
    for number in range(3):
        _add(database, f"newer {number}")


def test_a_reader_cannot_write(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite's transactions begin alike")
    with pytest.raises(DatabaseUnavailable, match="read-only"), database.read() as reader:
        reader.execute(text("INSERT INTO revisions VALUES ('lost', 0)"))


def test_writers_take_turns(database: Database) -> None:
    def write() -> None:
        for _ in range(20):
            with database.write() as connection:
                advance(connection, "recipes")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert revision(connection, "recipes") == 80


def test_a_commit_waits_for_the_disk_and_readers_do_not_wait(sqlite_file: Path) -> None:
    database = Database.open(str(sqlite_file))
    with database.read() as connection:
        pragma = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_servers_that_start_at_once_make_one_schema(sqlite_file: Path) -> None:
    program = f"from bosal_server.database import Database; Database.open({str(sqlite_file)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "bosal.db"
    Database.open(str(file)).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_temporary_database_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    database = Database.open("temporary")
    assert database.is_temporary
    assert list(tmp_path.iterdir())
    database.close()
    assert not list(tmp_path.iterdir())


def test_the_default_lies_in_the_users_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_file().is_relative_to(tmp_path)
    Database.open().close()
    assert default_file().exists()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://host/db", "'mysql'"),
        ("://", "neither a file nor a URL"),
        ("sqlite://", "temporary"),
        ("/proc/nowhere/bosal.db", "--database"),
    ],
)
def test_a_database_of_no_use_is_named(where: str, message: str) -> None:
    with pytest.raises(InvalidDatabase, match=message):
        Database.open(where)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable) as error:
        Database.open("postgresql://me:secret@127.0.0.1:1/bosal?connect_timeout=2")
    assert "127.0.0.1:1" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than one header of a database would be " * 20)
    with pytest.raises(DatabaseUnavailable, match=r"notes\.txt.*not a database"):
        Database.open(str(file))
    assert file.read_text().startswith("not a database")


def test_a_newer_servers_database_is_refused(sqlite_file: Path) -> None:
    Database.open(str(sqlite_file)).close()
    with sqlite3.connect(sqlite_file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(InvalidDatabase, match="another version of bosal.*9999"):
        Database.open(str(sqlite_file))


def test_a_locked_database_is_unavailable_not_a_crash(
    sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_server.database._BUSY_MS", 50)
    database = Database.open(str(sqlite_file))
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked"), database.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with database.write():
        pass
    database.close()
