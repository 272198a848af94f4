"""The store over a SQL database: SQLite now, with statements that PostgreSQL understands too."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.store import (
    AuditRow,
    Batch,
    GenerationRow,
    IntentRow,
    ItemRow,
    ProjectRow,
    ProjectState,
    ThreadRow,
    TurnRow,
)
from supervisor.stores import read, write
from supervisor.stores.engine import Engine
from supervisor.stores.sqlite import SqliteEngine

T = TypeVar("T")

SLOW_SECONDS = 1.0
"""A commit that takes longer is logged: every request that acts waits for one."""

_log = structlog.get_logger(__name__)


class SqlStore:
    """See `ports.store.Store`. `url` is `sqlite:////absolute/path`.

    Many may call it at once: commits queue up, reads go beside them.
    """

    def __init__(self, url: str, *, clock: Clock) -> None:
        self._path = _sqlite_path(url)
        self._clock = clock
        self._engine: Engine | None = None

    async def open(self) -> None:
        """Connect, check the version, migrate up. Once more after `close` is fine."""
        if self._engine is None:
            self._engine = await SqliteEngine.open(self._path)

    async def close(self) -> None:
        """Let go of every connection, after what is running. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def put_project(self, row: ProjectRow) -> None:
        """Insert, or replace the row of that id."""
        await self._write(partial(write.write_rows, groups=[[row]]))

    async def commit(self, batch: Batch) -> None:
        """Write all of it or nothing, durably. `internal` for a number no engine can hold.

        What is written is the batch as it is now: the caller may go on filling it.
        """
        groups = write.rows_of(batch)
        project, below = batch.project, batch.drop_events_below

        def work(connection: Connection) -> None:
            write.write_rows(connection, groups)
            if below is not None:
                write.drop_events(connection, project, below)

        await self._write(work)

    async def projects(self) -> list[ProjectRow]:
        """All of them, by id."""
        return await self._read(read.projects)

    async def project(self, project: ProjectId) -> ProjectRow | None:
        """One of them."""
        return await self._read(partial(read.project, project=project))

    async def project_state(self, project: ProjectId) -> ProjectState:
        """What the agent goes on from: one state of the database."""
        return await self._read(partial(read.project_state, project=project))

    async def intent_by_key(
        self, project: ProjectId, account: str, idempotency_key: str
    ) -> IntentRow | None:
        """The intent a key was used for."""
        return await self._read(
            partial(read.intent_by_key, project=project, account=account, key=idempotency_key)
        )

    async def threads(self, project: ProjectId) -> list[ThreadRow]:
        """All threads, newest first."""
        return await self._read(partial(read.threads, project=project))

    async def turns(self, project: ProjectId, thread_id: str, limit: int) -> list[TurnRow]:
        """The last `limit` turns of a thread, oldest first."""
        return await self._read(
            partial(read.turns, project=project, thread_id=thread_id, limit=limit)
        )

    async def items(
        self, project: ProjectId, thread_id: str, turn_ids: Sequence[str]
    ) -> list[ItemRow]:
        """Items of these turns, in the order they started."""
        return await self._read(
            partial(read.items, project=project, thread_id=thread_id, turn_ids=turn_ids)
        )

    async def turn_owner(self, project: ProjectId, turn_id: str) -> IntentRow | None:
        """The intent that started a turn."""
        return await self._read(partial(read.turn_owner, project=project, turn_id=turn_id))

    async def generations(self, project: ProjectId, limit: int) -> list[GenerationRow]:
        """The last `limit` generations, newest first."""
        return await self._read(partial(read.generations, project=project, limit=limit))

    async def audit(
        self, project: ProjectId, *, after_seq: int, limit: int, thread_id: str | None = None
    ) -> list[AuditRow]:
        """Audit records with `seq` above `after_seq`, in order."""
        return await self._read(
            partial(
                read.audit,
                project=project,
                after_seq=after_seq,
                limit=limit,
                thread_id=thread_id,
            )
        )

    async def _read(self, function: Callable[[Connection], T]) -> T:
        return await self._opened().read(function)

    async def _write(self, function: Callable[[Connection], T]) -> T:
        started = self._clock.monotonic()
        try:
            return await self._opened().write(function)
        finally:
            seconds = self._clock.monotonic() - started
            if seconds > SLOW_SECONDS:
                _log.warning("store_slow", action="store_slow", seconds=round(seconds, 3))

    def _opened(self) -> Engine:
        if self._engine is None:
            raise SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the store is not open")
        return self._engine


def _sqlite_path(url: str) -> Path:
    """`settings_invalid` for a URL that names no SQLite file."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SupervisorError(ErrorCode.SETTINGS_INVALID, "this is no database URL") from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise SupervisorError(
            ErrorCode.SETTINGS_INVALID,
            f"the store is a SQLite file, not {parsed.render_as_string()!r}",
            hint="Write sqlite:////absolute/path.",
        )
    return Path(parsed.database or "").absolute()
