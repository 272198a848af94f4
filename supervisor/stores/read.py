"""The queries: the same for every engine, inside the caller's read transaction."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, TextClause, or_, select, text

from supervisor.ids import ProjectId
from supervisor.ports.store import (
    AuditRow,
    CheckpointRow,
    EventRow,
    GenerationRow,
    IntentRow,
    ItemRow,
    ProjectRow,
    ProjectState,
    ServerRequestRow,
    ThreadRow,
    TurnRow,
)
from supervisor.stores.rows import holdable_key
from supervisor.stores.tables import (
    EVENTS,
    GENERATION_LIVE,
    GENERATIONS,
    INTENT_KEYED,
    INTENT_PENDING,
    INTENTS,
    ITEM_OPEN,
    ITEMS,
    REQUEST_OPEN,
    SERVER_REQUESTS,
    TABLE_OF,
    TURN_OPEN,
    TURNS,
)

_AT_ONCE = 500
"""Values of one IN: engines bound the variables of a statement."""

Row = TypeVar("Row", bound=msgspec.Struct)
_Query: TypeAlias = Select[Any]


def projects(connection: Connection) -> list[ProjectRow]:
    """All of them, by id."""
    table = TABLE_OF[ProjectRow]
    return _rows(connection, ProjectRow, select(table).order_by(table.c.project))


def project(connection: Connection, project: ProjectId) -> ProjectRow | None:
    """One of them."""
    found = _rows(connection, ProjectRow, _of(TABLE_OF[ProjectRow], project))
    return found[0] if found else None


def project_state(connection: Connection, project: ProjectId) -> ProjectState:
    """What the agent goes on from."""
    checkpoints = _rows(connection, CheckpointRow, _of(TABLE_OF[CheckpointRow], project))
    checkpoint = checkpoints[0] if checkpoints else None
    return ProjectState(
        checkpoint=checkpoint,
        generations=_live_generations(connection, project, checkpoint),
        events=_window_events(connection, project, checkpoint),
        threads=threads(connection, project),
        open_turns=_rows(
            connection,
            TurnRow,
            _of(TURNS, project, text(TURN_OPEN)).order_by(TURNS.c.started_n, TURNS.c.turn_id),
        ),
        open_items=_rows(
            connection,
            ItemRow,
            _of(ITEMS, project, text(ITEM_OPEN)).order_by(ITEMS.c.started_n, ITEMS.c.item_id),
        ),
        pending_intents=_rows(
            connection,
            IntentRow,
            _of(INTENTS, project, text(INTENT_PENDING)).order_by(
                INTENTS.c.n, INTENTS.c.created_at, INTENTS.c.request_id
            ),
        ),
        waiting_requests=_rows(
            connection,
            ServerRequestRow,
            _of(SERVER_REQUESTS, project, text(REQUEST_OPEN)).order_by(
                SERVER_REQUESTS.c.asked_n, SERVER_REQUESTS.c.approval_id
            ),
        ),
    )


def intent_by_key(
    connection: Connection, project: ProjectId, account: str, key: str
) -> IntentRow | None:
    """The intent a key was used for; the last one, should there be several."""
    query = _of(
        INTENTS,
        project,
        INTENTS.c.account == holdable_key(account),
        INTENTS.c.idempotency_key == holdable_key(key),
        text(INTENT_KEYED),
    )
    found = _rows(connection, IntentRow, _last(query).limit(1))
    return found[0] if found else None


def threads(connection: Connection, project: ProjectId) -> list[ThreadRow]:
    """All threads, newest first."""
    table = TABLE_OF[ThreadRow]
    newest = (table.c.created_at.desc(), table.c.thread_id.desc())
    return _rows(connection, ThreadRow, _of(table, project).order_by(*newest))


def turns(connection: Connection, project: ProjectId, thread_id: str, limit: int) -> list[TurnRow]:
    """The last `limit` turns of a thread, oldest first."""
    query = _of(TURNS, project, TURNS.c.thread_id == holdable_key(thread_id))
    newest = query.order_by(TURNS.c.started_n.desc(), TURNS.c.turn_id.desc())
    return _rows(connection, TurnRow, newest.limit(max(limit, 0)))[::-1]


def items(
    connection: Connection, project: ProjectId, thread_id: str, turn_ids: Sequence[str]
) -> list[ItemRow]:
    """Items of these turns, in the order they started."""
    wanted = sorted({holdable_key(turn) for turn in turn_ids})
    found: list[ItemRow] = []
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        query = _of(
            ITEMS,
            project,
            ITEMS.c.thread_id == holdable_key(thread_id),
            ITEMS.c.turn_id.in_(some),
        )
        found += _rows(connection, ItemRow, query)
    return sorted(found, key=lambda row: (row.started_n, row.item_id))


def turn_owner(connection: Connection, project: ProjectId, turn_id: str) -> IntentRow | None:
    """The intent that started a turn."""
    started = select(TURNS.c.request_id).where(
        TURNS.c.project == holdable_key(project), TURNS.c.turn_id == holdable_key(turn_id)
    )
    query = _of(INTENTS, project, INTENTS.c.request_id.in_(started))
    found = _rows(connection, IntentRow, _last(query).limit(1))
    return found[0] if found else None


def generations(connection: Connection, project: ProjectId, limit: int) -> list[GenerationRow]:
    """The last `limit` generations, newest first."""
    query = _of(GENERATIONS, project).order_by(GENERATIONS.c.generation.desc())
    return _rows(connection, GenerationRow, query.limit(max(limit, 0)))


def audit(
    connection: Connection, project: ProjectId, after_seq: int, limit: int, thread_id: str | None
) -> list[AuditRow]:
    """Audit records with `seq` above `after_seq`, in order."""
    table = TABLE_OF[AuditRow]
    query = _of(table, project, table.c.seq > after_seq)
    if thread_id is not None:
        query = query.where(table.c.thread_id == holdable_key(thread_id))
    return _rows(connection, AuditRow, query.order_by(table.c.seq).limit(max(limit, 0)))


def _live_generations(
    connection: Connection, project: ProjectId, checkpoint: CheckpointRow | None
) -> list[GenerationRow]:
    query = _of(GENERATIONS, project)
    if checkpoint is not None:
        window = GENERATIONS.c.generation >= checkpoint.window_generation
        query = query.where(or_(text(GENERATION_LIVE), window))
    return _rows(connection, GenerationRow, query.order_by(GENERATIONS.c.generation))


def _window_events(
    connection: Connection, project: ProjectId, checkpoint: CheckpointRow | None
) -> list[EventRow]:
    query = _of(EVENTS, project)
    if checkpoint is not None:
        query = query.where(EVENTS.c.n >= checkpoint.window_n)
    return _rows(connection, EventRow, query.order_by(EVENTS.c.n))


def _of(table: Table, project: ProjectId, *where: ColumnElement[bool] | TextClause) -> _Query:
    return select(table).where(table.c.project == holdable_key(project), *where)


def _last(query: _Query) -> _Query:
    return query.order_by(
        INTENTS.c.n.desc(), INTENTS.c.created_at.desc(), INTENTS.c.request_id.desc()
    )


def _rows(connection: Connection, row_type: type[Row], query: _Query) -> list[Row]:
    names = row_type.__struct_fields__
    return [
        row_type(**dict(zip(names, values, strict=True))) for values in connection.execute(query)
    ]
