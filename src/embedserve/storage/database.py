"""Connections: how a database is opened, and what a transaction is on each kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from embedserve.errors import EmbedserveError
from embedserve.storage.checkpoint import PRAGMAS, Checkpointer
from embedserve.storage.deadline import GRACE, Deadline, current
from embedserve.storage.failures import DatabaseSilentError
from embedserve.storage.guard import Guard
from embedserve.storage.migrate import SCHEMA, read_stamp, upgrade
from embedserve.storage.values import guard_values

FILE_NAME = "embedserve.db"

Sync = Literal["normal", "full"]

P = ParamSpec("P")
T = TypeVar("T")

CONNECTIONS, MORE_CONNECTIONS = 5, 10
"""Kept, and opened besides when all of those are busy."""


class Database:
    """A pool of connections to one migrated database. Every method but ``run`` blocks: call it from a thread.

    ``read()`` and ``write()`` give a SQLAlchemy connection inside a transaction that is committed when the
    block ends and rolled back when it raises. A write transaction takes SQLite's write lock at once
    (``BEGIN IMMEDIATE``), so that two processes wait for one another and never fail half way.

    Attributes:
        timeout: seconds that connecting, waiting for a lock, or one statement may take (PostgreSQL); on
            SQLite the wait for the lock. A whole transaction on PostgreSQL may take four times that: keep
            them short.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self.engine = engine
        self.timeout = timeout
        self._writer = engine.execution_options(embedserve_write=True)
        self._guard = Guard(4 * timeout) if engine.dialect.name == "postgresql" else None
        self._threads = ThreadPoolExecutor(
            CONNECTIONS + MORE_CONNECTIONS, thread_name_prefix="embedserve-database"
        )
        guard_values(engine)
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        self.path = Path(file) if file and file != ":memory:" else None
        """Of SQLite's file."""
        self._checkpointer = Checkpointer(self.path) if self.path else None

    @classmethod
    def open(
        cls,
        data_dir: Path,
        url: str | None = None,
        *,
        timeout: float = 5.0,
        sync: Sync = "normal",
        must_exist: bool = False,
    ) -> Database:
        """Connect and migrate.

        Args:
            data_dir: where the SQLite file lies (made when missing, for its owner alone).
            url: an SQLAlchemy URL instead, ``postgresql://…`` or ``sqlite:///…``.
            sync: of SQLite. ``normal``: what was committed survives the end of the process at any moment;
                ``full``: the loss of power too, at one wait for the disk a commit.
            must_exist: make neither folder, file nor tables where there are none.

        Raises:
            EmbedserveError: not reachable, its driver is not installed, from a newer release, or not there.
        """
        target = _parse(url) if url else None
        if target is None or target.get_backend_name() == "sqlite":
            if must_exist:
                _check_file(data_dir / FILE_NAME if target is None else target.database)
            database = cls(_open_sqlite(target, data_dir, timeout, sync), timeout)
        elif target.get_backend_name() == "postgresql":
            database = cls(_open_postgresql(target, timeout), timeout)
        else:
            raise _unusable(f"database_url starts with {target.drivername}: use sqlite:/// or postgresql://.")
        try:
            with database.read() as connection:
                stamp = read_stamp(connection)
            if stamp is None and must_exist:
                raise _unusable(
                    f"The database {database.shown_url} is empty: `embedserve serve` or `embedserve keys "
                    "create` fills it; or name another with --data-dir or --database-url."
                )
            if stamp != SCHEMA:
                with database.write() as connection:
                    upgrade(connection)
        except SQLAlchemyError as error:
            database.close()
            raise _unusable(
                f"The database {database.shown_url} cannot be used: {_first_line(error)}. Its address is "
                "EMBEDSERVE_DATABASE_URL or --database-url, and else a file in --data-dir"
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``"""
        return self.engine.dialect.name

    @property
    def shown_url(self) -> str:
        """Without the password, wherever in it that stands."""
        return self.engine.url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._transaction(self.engine) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._transaction(self._writer) as connection:
            yield connection

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work of a request, in a thread, for as long as the timeout allows.

        Raises:
            DatabaseSilentError: it took longer, or there was no thread for it; what it may still be at is not
                committed.
        """
        return await self.run_within(self.timeout + GRACE, work, *args, **kwargs)

    async def run_within(self, seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """:meth:`run` for work that waits for more than the database."""
        deadline = Deadline(seconds)
        context = copy_context()
        context.run(current.set, deadline)
        call: Callable[[], T] = partial(context.run, partial(work, *args, **kwargs))
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except BaseException as error:
            deadline.give_up()
            if limit.expired() and isinstance(error, TimeoutError):
                raise DatabaseSilentError("the time for this work is over") from None
            raise

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        deadline = current.get()
        if deadline is not None:
            deadline.check()
        with engine.connect() as connection:
            if self._guard is None:
                with connection.begin():
                    yield connection
                    if deadline is not None:
                        deadline.check()
                return
            limit = None if deadline is None else max(0.1, min(deadline.left, self.timeout + GRACE))
            with self._guard.watch(connection, limit):
                _try(connection)
            with self._guard.watch(connection, limit), connection.begin():
                yield connection
                if deadline is not None:
                    deadline.check()

    def upsert(self, table: sa.Table) -> Any:
        """An INSERT of the dialect in use, for ``on_conflict_do_update`` and ``…_do_nothing``."""
        return upsert(self.dialect, table)

    def start(self) -> None:
        """Begin background work; for programs that write for long. The others may do without."""
        if self._checkpointer:
            self._checkpointer.start()

    def close(self) -> None:
        if self._checkpointer:
            self._checkpointer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


def upsert(dialect: str, table: sa.Table) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)


def _try(connection: Connection) -> None:
    """A pooled connection may have died with its server; if so, the next use of it makes a new one."""
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    connection.rollback()


def _parse(url: str) -> URL:
    try:
        target = make_url(url)
    except sa.exc.ArgumentError as error:
        # The URL may hold a password: it is not repeated.
        raise _unusable("database_url is no URL; expected postgresql://user@host/name.") from error
    if target.get_backend_name() == "sqlite" and (
        target.host or target.query or target.database in (None, "", ":memory:")
    ):
        raise _unusable(
            "EMBEDSERVE_DATABASE_URL or --database-url names no file: write sqlite:///path/to/embedserve.db, "
            "without a host and without a query."
        )
    if target.drivername in ("postgresql", "postgres"):
        target = target.set(drivername="postgresql+psycopg")
    return target


def _check_file(path: Path | str | None) -> None:
    """Raises EmbedserveError if a file of SQLite is not there."""
    if path is None or str(path) in ("", ":memory:"):
        return
    try:
        if Path(path).is_file():
            return
        reason = "there is no such file"
    except OSError as error:
        reason = error.strerror or "it cannot be looked at"
    raise _unusable(
        f"There is no database at {path} ({reason}): name the server's folder with --data-dir or "
        "EMBEDSERVE_DATA_DIR, or its database with --database-url; `embedserve serve` and `embedserve keys "
        "create` make one."
    )


def _open_sqlite(target: URL | None, data_dir: Path, timeout: float, sync: Sync) -> Engine:
    if target is None:
        path = data_dir / FILE_NAME
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise _unusable(
                f"cannot write in the data directory {data_dir} ({error.strerror}): choose another with "
                "--data-dir or EMBEDSERVE_DATA_DIR"
            ) from None
        target = URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        target, connect_args={"timeout": timeout}, pool_timeout=timeout, hide_parameters=True
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # begin() below says when a transaction starts, not the driver
        for pragma in ("journal_mode=WAL", f"synchronous={sync}", "foreign_keys=ON", *PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("embedserve_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _open_postgresql(target: URL, timeout: float) -> Engine:
    milliseconds = int(timeout * 1000)
    try:
        return sa.create_engine(
            target,
            pool_size=CONNECTIONS,
            max_overflow=MORE_CONNECTIONS,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args={
                "connect_timeout": max(2, round(timeout)),  # libpq takes no less than two seconds
                "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
                "application_name": "embedserve",
            },
        )
    except sa.exc.ArgumentError:  # what it says may quote a password
        raise _unusable(
            "EMBEDSERVE_DATABASE_URL or --database-url cannot be read: write "
            "postgresql://user:password@host:5432/name."
        ) from None
    except ModuleNotFoundError as error:
        raise _unusable("PostgreSQL needs its driver: pip install 'embedserve[postgres]'.") from error


def _unusable(message: str) -> EmbedserveError:
    return EmbedserveError(message, status=500, code="InternalError", openai_code="internal_error")


def _first_line(error: SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
