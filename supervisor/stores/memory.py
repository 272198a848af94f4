"""The store in memory: the same contract, nothing durable. For tests, ours and users'."""

from collections.abc import Iterable, Sequence
from math import isnan
from typing import TypeVar

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.store import (
    AuditRow,
    Batch,
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
from supervisor.stores.rows import holdable, holdable_key, holdable_rows

Row = TypeVar("Row", bound=msgspec.Struct)

_INT64 = 2**63


class _Rows(msgspec.Struct):
    """One project's rows, by key."""

    checkpoint: CheckpointRow | None = None
    generations: dict[int, GenerationRow] = msgspec.field(default_factory=dict)
    events: dict[int, EventRow] = msgspec.field(default_factory=dict)
    threads: dict[str, ThreadRow] = msgspec.field(default_factory=dict)
    intents: dict[str, IntentRow] = msgspec.field(default_factory=dict)
    turns: dict[tuple[str, str], TurnRow] = msgspec.field(default_factory=dict)
    items: dict[tuple[str, str, str], ItemRow] = msgspec.field(default_factory=dict)
    server_requests: dict[str, ServerRequestRow] = msgspec.field(default_factory=dict)
    audit: dict[int, AuditRow] = msgspec.field(default_factory=dict)


class MemoryStore:
    """See `ports.store.Store`. It can be made to fail, to see what its users do then.

    `unavailable`: while true, everything but `open` and `close` raises `store_unavailable`.
    `commits` counts the batches written.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self.commits = 0
        self._failures: list[SupervisorError] = []
        self._open = False
        self._projects: dict[str, ProjectRow] = {}
        self._rows: dict[str, _Rows] = {}

    def fail_next(self, count: int, error: SupervisorError) -> None:
        """The next `count` calls, reads too, raise `error` and change nothing."""
        self._failures += [error] * count

    async def open(self) -> None:
        """What was written before a `close` is still there."""
        self._open = True

    async def close(self) -> None:
        """Refuse everything until the next `open`. Idempotent."""
        self._open = False

    async def put_project(self, row: ProjectRow) -> None:
        """Insert, or replace the row of that id."""
        self._check()
        _refuse_numbers([row])
        kept = holdable(row)
        self._projects[kept.project] = kept

    async def projects(self) -> list[ProjectRow]:
        """All of them, by id."""
        self._check()
        return [row for _, row in sorted(self._projects.items())]

    async def project(self, project: ProjectId) -> ProjectRow | None:
        """One of them."""
        self._check()
        return self._projects.get(holdable_key(project))

    async def commit(self, batch: Batch) -> None:
        """Write all of it or nothing. `internal` for a number no engine can hold."""
        self._check()
        checkpoint = [] if batch.checkpoint is None else [batch.checkpoint]
        wished = [] if batch.wished is None else [batch.wished]
        _refuse_numbers(checkpoint)
        for group in (
            wished,
            batch.generations.values(),
            batch.events,
            batch.threads.values(),
            batch.intents.values(),
            batch.turns.values(),
            batch.items.values(),
            batch.server_requests.values(),
            batch.audit,
        ):
            _refuse_numbers(group)
        self.commits += 1
        for row in holdable_rows(wished):
            self._projects[row.project] = row
        rows = self._rows.setdefault(holdable_key(batch.project), _Rows())
        for kept in holdable_rows(checkpoint):
            rows.checkpoint = kept
        _put(rows, batch)
        if batch.drop_events_below is not None:
            for n in [n for n in rows.events if n < batch.drop_events_below]:
                del rows.events[n]

    async def project_state(self, project: ProjectId) -> ProjectState:
        """What the agent goes on from."""
        rows = self._of(project)
        point = rows.checkpoint
        return ProjectState(
            checkpoint=point,
            generations=[
                row
                for _, row in sorted(rows.generations.items())
                if point is None
                or row.state != "ended"
                or row.generation >= point.window_generation
            ],
            events=[
                row
                for n, row in sorted(rows.events.items())
                if point is None or n >= point.window_n
            ],
            threads=await self.threads(project),
            open_turns=sorted(
                (row for row in rows.turns.values() if row.state == "in_progress"),
                key=lambda row: (row.started_n, row.turn_id),
            ),
            open_items=sorted(
                (row for row in rows.items.values() if row.state == "open"),
                key=lambda row: (row.started_n, row.item_id),
            ),
            pending_intents=sorted(
                (row for row in rows.intents.values() if row.state == "pending"), key=_made
            ),
            waiting_requests=sorted(
                (row for row in rows.server_requests.values() if row.settled_at is None),
                key=lambda row: (row.asked_n, row.approval_id),
            ),
        )

    async def intent_by_key(
        self, project: ProjectId, account: str, idempotency_key: str
    ) -> IntentRow | None:
        """The intent a key was used for; the last one, should there be several."""
        wanted = (holdable_key(account), holdable_key(idempotency_key))
        found = [
            row
            for row in self._of(project).intents.values()
            if (row.account, row.idempotency_key) == wanted
        ]
        return max(found, key=_made, default=None)

    async def threads(self, project: ProjectId) -> list[ThreadRow]:
        """All threads, newest first."""
        return sorted(
            self._of(project).threads.values(),
            key=lambda row: (row.created_at, row.thread_id),
            reverse=True,
        )

    async def turns(self, project: ProjectId, thread_id: str, limit: int) -> list[TurnRow]:
        """The last `limit` turns of a thread, oldest first."""
        found = sorted(
            (
                row
                for row in self._of(project).turns.values()
                if row.thread_id == holdable_key(thread_id)
            ),
            key=lambda row: (row.started_n, row.turn_id),
        )
        return found[-limit:] if limit > 0 else []

    async def items(
        self, project: ProjectId, thread_id: str, turn_ids: Sequence[str]
    ) -> list[ItemRow]:
        """Items of these turns, in the order they started."""
        thread, turns = holdable_key(thread_id), {holdable_key(turn) for turn in turn_ids}
        return sorted(
            (
                row
                for row in self._of(project).items.values()
                if row.thread_id == thread and row.turn_id in turns
            ),
            key=lambda row: (row.started_n, row.item_id),
        )

    async def turn_owner(self, project: ProjectId, turn_id: str) -> IntentRow | None:
        """The intent that started a turn."""
        rows = self._of(project)
        found = [
            rows.intents[row.request_id]
            for row in rows.turns.values()
            if row.turn_id == holdable_key(turn_id) and row.request_id in rows.intents
        ]
        return max(found, key=_made, default=None)

    async def generations(self, project: ProjectId, limit: int) -> list[GenerationRow]:
        """The last `limit` generations, newest first."""
        found = [row for _, row in sorted(self._of(project).generations.items(), reverse=True)]
        return found[: max(limit, 0)]

    async def audit(
        self, project: ProjectId, *, after_seq: int, limit: int, thread_id: str | None = None
    ) -> list[AuditRow]:
        """Audit records with `seq` above `after_seq`, in order."""
        wanted = None if thread_id is None else holdable_key(thread_id)
        found = [
            row
            for seq, row in sorted(self._of(project).audit.items())
            if seq > after_seq and wanted in {None, row.thread_id}
        ]
        return found[: max(limit, 0)]

    def _of(self, project: ProjectId) -> _Rows:
        self._check()
        return self._rows.get(holdable_key(project)) or _Rows()

    def _check(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        if self.unavailable or not self._open:
            raise SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the store is away")


def _put(rows: _Rows, batch: Batch) -> None:
    rows.generations |= {r.generation: r for r in holdable_rows(batch.generations.values())}
    rows.events |= {r.n: r for r in holdable_rows(batch.events)}
    rows.threads |= {r.thread_id: r for r in holdable_rows(batch.threads.values())}
    rows.intents |= {r.request_id: r for r in holdable_rows(batch.intents.values())}
    rows.turns |= {(r.thread_id, r.turn_id): r for r in holdable_rows(batch.turns.values())}
    rows.items |= {
        (r.thread_id, r.turn_id, r.item_id): r for r in holdable_rows(batch.items.values())
    }
    rows.server_requests |= {
        r.approval_id: r for r in holdable_rows(batch.server_requests.values())
    }
    rows.audit |= {r.seq: r for r in holdable_rows(batch.audit)}


def _made(row: IntentRow) -> tuple[int, float, str]:
    return row.n, row.created_at, row.request_id


def _refuse_numbers(rows: Iterable[msgspec.Struct]) -> None:
    """Raise what an engine would, before anything is written."""
    for row in rows:
        for name in row.__struct_fields__:
            value = getattr(row, name)
            whole = isinstance(value, int) and not -_INT64 <= value < _INT64
            if whole or (isinstance(value, float) and isnan(value)):
                raise SupervisorError(
                    ErrorCode.INTERNAL, f"the store refused a row: {name} is not a 64-bit number"
                )
