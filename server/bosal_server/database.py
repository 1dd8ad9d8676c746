"""The server's database: SQLite in a file by default, PostgreSQL for several replicas.

Whoever keeps something here declares its tables on `METADATA`, adds a migration under
`migrations/versions`, and reads and writes inside `Database.read` and `Database.write`.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Final, Self

import platformdirs
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    TimeoutError,
)

from bosal_server.errors import ServerError
from bosal_server.masking import without_password

# What `--database` takes for a database that ends with the server.
TEMPORARY: Final = "temporary"

# Constraints are named alike everywhere, so that a later migration can find them.
METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One counter per topic. A process that finds one higher than it knew reads the topic anew.
_REVISIONS: Final = Table(
    "revisions",
    METADATA,
    Column("topic", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

_DRIVERS: Final = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
# How long a writer waits for another process's transaction, in milliseconds.
_BUSY_MS: Final = 5000
# Held by the one server of several that brings the schema up to date; any fixed number will do.
_MIGRATION_LOCK: Final = 0x626F73616C

# By itself PostgreSQL shows each statement what was committed before it; SQLite has one view.
_ONE_VIEW: Final[dict[str, Any]] = {
    "isolation_level": "REPEATABLE READ",
    "postgresql_readonly": True,
}

_logger = logging.getLogger(__name__)


class DatabaseUnavailable(ServerError):
    """Raised when the database cannot be opened, read or written."""

    reason = "DATABASE_UNAVAILABLE"
    code = "UNAVAILABLE"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after = 1.0


class InvalidDatabase(ServerError):
    """Raised when a server is told to use a database it cannot."""

    reason = "INVALID_DATABASE"
    code = "FAILED_PRECONDITION"


def default_file() -> Path:
    """Return where a server keeps its database if not told: in the user's data directory."""
    return platformdirs.user_data_path("bosal", appauthor=False) / "bosal.db"


class Database:
    """One database, open and up to date. Any thread may use it."""

    def __init__(
        self, engine: Engine, *, folder: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        self._engine = engine
        self._folder = folder
        # SQLite lets whoever asks at the right moment write: in one process, take turns instead.
        self._turn: AbstractContextManager[object] = Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, where: str | None = None) -> Self:
        """Open a database, made if it is not there, and bring its schema up to date.

        `where` is a file, a URL (`postgresql://…`, `sqlite:///…`), or `temporary`; None is
        `default_file()`.

        Raises:
            InvalidDatabase: `where` names no database this server can use.
            DatabaseUnavailable: it cannot be opened.
        """
        folder = None
        if where == TEMPORARY:
            folder = tempfile.TemporaryDirectory(prefix="bosal-", ignore_cleanup_errors=True)
            where = str(Path(folder.name) / "bosal.db")
        url = _url(where)
        database = cls(_engine(url), folder=folder)
        try:
            with database.write() as connection:
                if not database.is_sqlite:
                    lock = text("SELECT pg_advisory_xact_lock(:key)")
                    connection.execute(lock, {"key": _MIGRATION_LOCK})
                _upgrade(connection)
        except CommandError as error:
            database.close()
            raise InvalidDatabase(
                f"{database} was written by another version of bosal: {error}"
            ) from None
        except BaseException:
            database.close()
            raise
        _logger.info("%s", database)
        return database

    def __str__(self) -> str:
        """Name the database without its password."""
        if self._folder is not None:
            return "temporary database"
        url = self._engine.url
        where = url.database if self.is_sqlite else url.render_as_string(hide_password=True)
        return f"database {without_password(where or '')}"

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def folder(self) -> Path:
        """Where files that go with the database are kept."""
        if self.is_sqlite:
            return Path(self._engine.url.database or "").parent
        return default_file().parent

    @property
    def is_temporary(self) -> bool:
        """Whether what is written ends with the server."""
        return self._folder is not None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Hold one consistent view of the database.

        Raises:
            DatabaseUnavailable: it cannot be read.
        """
        with self._transaction(is_writing=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Hold a transaction that is committed at the end, or undone if an error leaves it.

        SQLite takes its one write lock at the beginning, so what is read inside stays true.

        Raises:
            DatabaseUnavailable: it cannot be written; nothing was.
        """
        with self._turn, self._transaction(is_writing=True) as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()
        if self._folder is not None:
            self._folder.cleanup()

    @contextmanager
    def _transaction(self, *, is_writing: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(is_writing=is_writing)
                if not is_writing and not self.is_sqlite:
                    connection.execution_options(**_ONE_VIEW)
                with connection.begin():
                    yield connection
        except (IntegrityError, DataError, ProgrammingError):
            # The statement's fault, not the database's.
            raise
        except (DBAPIError, TimeoutError) as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise DatabaseUnavailable(f"{self} cannot be used: {cause}") from error


def revision(connection: Connection, topic: str) -> int:
    """How often a topic has changed."""
    number = select(_REVISIONS.c.number).where(_REVISIONS.c.topic == topic)
    return connection.execute(number).scalar() or 0


def advance(connection: Connection, topic: str) -> int:
    """Say that a topic changes with this transaction, and return its new revision.

    Until the transaction ends, others that would advance the topic wait.
    """
    row = _REVISIONS.c.topic == topic
    number = update(_REVISIONS).where(row).values(number=_REVISIONS.c.number + 1)
    found = connection.execute(number.returning(_REVISIONS.c.number)).scalar()
    if found is None:
        raise LookupError(f"no migration made the topic '{topic}'")
    return int(found)


def _url(where: str | None) -> URL:
    """Read a file's name or a URL; a file's folder is made."""
    if where is None or "://" not in where:
        file = default_file() if where is None else Path(where)
        url = URL.create("sqlite", database=str(file.absolute()))
    else:
        try:
            url = make_url(where)
        except ArgumentError:
            raise InvalidDatabase("the database is neither a file nor a URL") from None
    backend = url.get_backend_name()
    if backend not in _DRIVERS:
        raise InvalidDatabase(
            f"a database of kind '{backend}' cannot be used; give a file or postgresql://…"
        )
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise InvalidDatabase(f"for a database that ends with the server say '{TEMPORARY}'")
        file = Path(url.database)
        try:
            # Readable by its owner alone: recipes and what users did are nobody else's.
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
        except OSError as error:
            raise InvalidDatabase(
                f"cannot keep a database at '{file}': {error.strerror}; name another file, "
                f"a URL, or '{TEMPORARY}', with --database"
            ) from None
    return url.set(drivername=_DRIVERS[backend]) if "+" not in url.drivername else url


def _engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InvalidDatabase(
            f"a database of kind '{url.get_backend_name()}' needs a driver: {error}; "
            "pip install 'bosal[postgres]'"
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Survive a loss of power with all that was committed, and let readers beside the writer."""
    # By itself the driver would begin transactions without the lock.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "cache_size=-16384",  # 16 MB, so that a batch's pages are written once
        "wal_autocheckpoint=4096",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    is_writing = connection.get_execution_options().get("is_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "bosal_server:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
