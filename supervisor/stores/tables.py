"""The tables, as SQLAlchemy Core describes them: one for each row type of `ports.store`.

Columns have the names and the order of the row's fields (a test compares the two), so that a row
becomes a tuple and back without a mapping in between. Only types both engines have are used. The
migrations are written by hand; a test compares what they make with what is described here.
"""

from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeEngine

from supervisor.ports.store import (
    AuditRow,
    CheckpointRow,
    EventRow,
    GenerationRow,
    IntentRow,
    ItemRow,
    ProjectRow,
    ServerRequestRow,
    ThreadRow,
    TurnRow,
)

METADATA: Final = MetaData()

_TYPES: Final[dict[str, type[TypeEngine[Any]]]] = {
    "str": Text,
    "bytes": LargeBinary,
    "int": BigInteger,
    "float": Float,
    "bool": Boolean,
}


def _table(name: str, *columns: str) -> Table:
    """Columns as `name:type`: `*` after the type marks the key, `?` one that may be null."""
    made: list[Column[Any]] = []
    for column in columns:
        field, _, kind = column.partition(":")
        made.append(
            Column(
                field,
                _TYPES[kind.rstrip("*?")],
                primary_key=kind.endswith("*"),
                nullable=kind.endswith("?"),
                autoincrement=False,
            )
        )
    return Table(name, METADATA, *made)


def _index(name: str, table: Table, *columns: str, where: str | None = None) -> None:
    """An index; `where` makes it a partial one, small because what it finds is rare."""
    only = None if where is None else text(where)
    Index(name, *(table.c[c] for c in columns), sqlite_where=only, postgresql_where=only)


PROJECTS: Final = _table(
    "projects",
    "project:str*",
    "path:str",
    "account:str",
    "trusted:bool",
    "desired:str",
    "created_at:float",
    "quarantine:str?",
)
CHECKPOINTS: Final = _table(
    "checkpoints",
    "project:str*",
    "epoch:str",
    "next_n:int",
    "generation:int",
    "offset:int",
    "window_n:int",
    "window_generation:int",
    "window_offset:int",
    "audit_seq:int",
    "audit_hash:str",
    "host:str",
    "boot_id:str",
)
GENERATIONS: Final = _table(
    "generations",
    "project:str*",
    "generation:int*",
    "state:str",
    "runtime:str",
    "marker:str",
    "first_n:int",
    "started_at:float",
    "trusted:bool",
    "pid:int?",
    "pid_start_ticks:int?",
    "boot_id:str?",
    "final_size:int?",
    "exit_kind:str?",
    "exit_detail:str?",
    "ended_at:float?",
)
EVENTS: Final = _table(
    "events",
    "project:str*",
    "n:int*",
    "generation:int",
    "offset:int",
    "thread_id:str?",
    "message:bytes",
    "at:float",
)
THREADS: Final = _table(
    "threads",
    "project:str*",
    "thread_id:str*",
    "account:str",
    "status:str",
    "cwd:str",
    "name:str?",
    "settings:bytes",
    "has_turns:bool",
    "created_at:float",
    "updated_at:float",
)
INTENTS: Final = _table(
    "intents",
    "project:str*",
    "request_id:str*",
    "method:str",
    "thread_id:str?",
    "turn_id:str?",
    "idempotency_key:str?",
    "params_hash:str",
    "params:bytes",
    "state:str",
    "outcome:bytes?",
    "account:str",
    "principal:str",
    "source:str",
    "client:str",
    "n:int",
    "created_at:float",
    "settled_at:float?",
)
TURNS: Final = _table(
    "turns",
    "project:str*",
    "thread_id:str*",
    "turn_id:str*",
    "state:str",
    "generation:int",
    "request_id:str?",
    "error:bytes?",
    "started_n:int",
    "ended_n:int?",
    "started_at:float",
    "ended_at:float?",
)
ITEMS: Final = _table(
    "items",
    "project:str*",
    "thread_id:str*",
    "turn_id:str*",
    "item_id:str*",
    "kind:str",
    "state:str",
    "body:bytes",
    "started_n:int",
    "completed_n:int?",
    "partial_text:str?",
    "partial_n:int?",
)
SERVER_REQUESTS: Final = _table(
    "server_requests",
    "project:str*",
    "approval_id:str*",
    "generation:int",
    "request_id:bytes",
    "method:str",
    "thread_id:str?",
    "turn_id:str?",
    "item_id:str?",
    "params:bytes",
    "state:str",
    "asked_n:int",
    "asked_at:float",
    "answer:bytes?",
    "answered_by:str?",
    "settled_at:float?",
)
AUDIT: Final = _table(
    "audit",
    "project:str*",
    "seq:int*",
    "at:float",
    "kind:str",
    "phase:str",
    "account:str",
    "principal:str",
    "source:str",
    "client:str",
    "host:str",
    "generation:int",
    "n:int",
    "thread_id:str?",
    "turn_id:str?",
    "item_id:str?",
    "detail:bytes",
    "hash:str",
)

GENERATION_LIVE: Final = "state <> 'ended'"
INTENT_KEYED: Final = "idempotency_key IS NOT NULL"
INTENT_PENDING: Final = "state = 'pending'"
TURN_OPEN: Final = "state = 'in_progress'"
ITEM_OPEN: Final = "state = 'open'"
REQUEST_OPEN: Final = "settled_at IS NULL"
"""The conditions of the partial indexes: a query uses one only if it says the same words."""

_index("generations_live", GENERATIONS, "project", where=GENERATION_LIVE)
_index("intents_by_key", INTENTS, "project", "account", "idempotency_key", where=INTENT_KEYED)
_index("intents_pending", INTENTS, "project", where=INTENT_PENDING)
_index("turns_by_start", TURNS, "project", "thread_id", "started_n")
_index("turns_by_id", TURNS, "project", "turn_id")
_index("turns_open", TURNS, "project", where=TURN_OPEN)
_index("items_open", ITEMS, "project", where=ITEM_OPEN)
_index("server_requests_open", SERVER_REQUESTS, "project", where=REQUEST_OPEN)
_index("audit_by_thread", AUDIT, "project", "thread_id", "seq")

TABLE_OF: Final[dict[type[msgspec.Struct], Table]] = {
    ProjectRow: PROJECTS,
    CheckpointRow: CHECKPOINTS,
    GenerationRow: GENERATIONS,
    EventRow: EVENTS,
    ThreadRow: THREADS,
    IntentRow: INTENTS,
    TurnRow: TURNS,
    ItemRow: ITEMS,
    ServerRequestRow: SERVER_REQUESTS,
    AuditRow: AUDIT,
}
"""In the order a batch is written."""

INDEXED_TEXT: Final = frozenset(
    column.name
    for table in TABLE_OF.values()
    for columns in [table.primary_key.columns, *(index.columns for index in table.indexes)]
    for column in columns
    if isinstance(column.type, Text)
)
"""Columns whose text some index holds, and is bounded for it."""
