"""Writing a batch: the same statements for every engine, inside the caller's transaction.

Rows go in by the chunk, many to a statement. That is not for SQLite's sake, which takes one row
at a time as fast, but for Python's: every step of a statement lets go of the interpreter's lock,
and while the event loop is busy each of them waits for a turn (5 ms) to get it back. Measured with
a busy loop: 700 rows/s by `executemany`, 10,000 in chunks.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Dialect, Table, bindparam, delete
from sqlalchemy.dialects import postgresql, sqlite

from supervisor.ids import ProjectId
from supervisor.ports.store import Batch
from supervisor.stores.rows import holdable_key, holdable_rows
from supervisor.stores.tables import EVENTS, TABLE_OF

CHUNKS = (64, 8, 1)
"""Rows of one statement, largest first: 64 of the widest table are 1,088 variables, where SQLite
and PostgreSQL stop at 32,766."""


def rows_of(batch: Batch) -> list[list[msgspec.Struct]]:
    """The rows of a batch as they are now, by table; of two with one key the later."""
    return [
        [] if batch.wished is None else [batch.wished],
        [] if batch.checkpoint is None else [batch.checkpoint],
        [*batch.generations.values()],
        [*{row.n: row for row in batch.events}.values()],
        [*batch.threads.values()],
        [*batch.intents.values()],
        [*batch.turns.values()],
        [*batch.items.values()],
        [*batch.server_requests.values()],
        [*{row.seq: row for row in batch.audit}.values()],
    ]


def write_rows(connection: Connection, groups: Iterable[Sequence[msgspec.Struct]]) -> None:
    """Insert rows, or replace those of the same key: each group of one type, no key twice."""
    for group in groups:
        _upsert(connection, holdable_rows(group))


def drop_events(connection: Connection, project: ProjectId, below: int) -> None:
    """Delete a project's own events numbered below `below`."""
    connection.execute(
        delete(EVENTS).where(EVENTS.c.project == holdable_key(project), EVENTS.c.n < below)
    )


def _upsert(connection: Connection, rows: Sequence[msgspec.Struct]) -> None:
    at = 0
    for size in CHUNKS:
        if len(rows) - at < size:
            continue
        statement = _upsert_sql(connection.dialect, TABLE_OF[type(rows[0])], size)
        while len(rows) - at >= size:
            values: list[Any] = []
            for row in rows[at : at + size]:
                values.extend(msgspec.structs.astuple(row))
            connection.exec_driver_sql(statement, tuple(values))
            at += size


@lru_cache(maxsize=256)
def _upsert_sql(dialect: Dialect, table: Table, size: int) -> str:
    """The SQL of an upsert of `size` rows, its variables in the order of rows and columns."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    names = [f"{column.name}_{row}" for row in range(size) for column in table.columns]
    given = iter(names)
    statement = insert(table).values(
        [{c.name: bindparam(next(given), type_=c.type) for c in table.columns} for _ in range(size)]
    )
    key = [column.name for column in table.primary_key.columns]
    replaced = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in key}
    upsert = statement.on_conflict_do_update(index_elements=key, set_=replaced)
    compiled = upsert.compile(dialect=dialect)
    if getattr(compiled, "positiontup", None) != names:
        raise AssertionError(f"{dialect.name} orders the variables of {table.name} otherwise")
    return str(compiled)
