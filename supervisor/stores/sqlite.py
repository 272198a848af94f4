"""SQLite: a writer with one connection and a thread of its own, and a few readers.

A transaction is one hop to the thread and back. The asynchronous driver hops for every statement
instead, which made a commit of three rows 8 times as slow (1.0 ms against 0.12).
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy import Engine as SqlalchemyEngine

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import CommitInDoubtError
from supervisor.stores.failures import may_be_written, translated
from supervisor.stores.migrate import upgrade
from supervisor.stores.migrations import HEAD, REVISIONS

T = TypeVar("T")

BUSY_SECONDS: Final = 2.0
"""How long a lock of somebody else is waited for, before it is `store_unavailable`."""
CHECKED_BYTES: Final = 64 * 2**20
"""Databases up to this size are read through at open; the rest is noticed when it is met."""
_READERS: Final = 2
_WAL_BYTES: Final = 64 * 2**20

_SETTINGS: Final = ("synchronous=FULL", "foreign_keys=ON")
_WRITER_SETTINGS: Final = ("journal_mode=WAL", f"journal_size_limit={_WAL_BYTES}", *_SETTINGS)
_READER_SETTINGS: Final = (*_SETTINGS, "query_only=ON")


class SqliteEngine:
    """An open database file. See `supervisor.stores.engine.Engine`."""

    def __init__(self, path: Path) -> None:
        self._where = f"the database {path}"
        self._writer = _engine(path, 1, "BEGIN IMMEDIATE", _WRITER_SETTINGS)
        self._reader = _engine(path, _READERS, "BEGIN", _READER_SETTINGS)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_threads = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")

    @classmethod
    async def open(cls, path: Path) -> "SqliteEngine":
        """Make the file if it is missing, check it if not, and migrate it up.

        A file that is corrupt or from a newer supervisor is not changed.
        """
        engine = cls(path)
        try:
            await engine._run(engine._write_thread, lambda: engine._prepare(path))
        except BaseException:
            await engine.close()
            raise
        return engine

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Durable when this returns. If cancelled meanwhile, it may still be written."""
        return await self._run(self._write_thread, lambda: _written(self._writer, function))

    async def read(self, function: Callable[[Connection], T]) -> T:
        """What was committed before is seen."""
        return await self._run(self._read_threads, lambda: _in(self._reader, function))

    async def close(self) -> None:
        """The last connection to go folds the write-ahead log into the file. Idempotent."""
        for thread in (self._read_threads, self._write_thread):
            await asyncio.to_thread(thread.shutdown)
        for engine in (self._reader, self._writer):
            await asyncio.to_thread(engine.dispose)

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        with translated(self._where):
            return await asyncio.get_running_loop().run_in_executor(thread, work)

    def _prepare(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            revision = inspect(path)
        else:
            revision = None
        # SQLite gives the log and the index the mode of the file, but keeps those it finds.
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if name.exists():
                name.chmod(0o600)
        if revision != HEAD:
            _in(self._writer, upgrade)


def _in(engine: SqlalchemyEngine, function: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return function(connection)


def _written(engine: SqlalchemyEngine, function: Callable[[Connection], T]) -> T:
    """As `_in`; `CommitInDoubtError` where it fails in the last step."""
    with engine.connect() as connection:
        transaction = connection.begin()
        try:
            result = function(connection)
        except BaseException:
            transaction.rollback()
            raise
        try:
            transaction.commit()
        except Exception as e:
            # A new connection neither sees this transaction nor goes on with it.
            connection.invalidate()
            if not may_be_written(e):
                raise
            raise CommitInDoubtError(f"the commit failed at its end ({e})") from e
        return result


def inspect(path: Path) -> str | None:
    """The schema revision of an existing file, None if it has none yet; changes nothing."""
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    ) as connection:
        if path.stat().st_size <= CHECKED_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise SupervisorError(
                    ErrorCode.STORE_CORRUPT, f"the database {path} is corrupt ({found})"
                )
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if "alembic_version" in tables:
            revisions = [r for (r,) in connection.execute("SELECT * FROM alembic_version")]
            return _known_revision(path, revisions)
    if tables:
        raise SupervisorError(
            ErrorCode.STORE_CORRUPT, f"the database {path} is another program's, not a supervisor's"
        )
    return None


def _known_revision(path: Path, revisions: list[str]) -> str | None:
    for revision in revisions:
        if revision not in REVISIONS:
            raise SupervisorError(
                ErrorCode.STORE_TOO_NEW,
                f"the database {path} has the schema revision {revision!r}, "
                f"and this supervisor knows none after {HEAD!r}",
            )
    return revisions[0] if revisions else None


def _engine(path: Path, size: int, begin: str, settings: tuple[str, ...]) -> SqlalchemyEngine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        pool_size=size,
        max_overflow=0,
        # A transaction is always ended by then, so that the pool need not end it again.
        pool_reset_on_return=None,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        # The driver begins no transaction by itself: it would do so too late, and not for reads.
        connection.isolation_level = None
        for setting in settings:
            connection.execute(f"PRAGMA {setting}").close()

    def begun(connection: Connection) -> Any:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine
