"""The store: what must outlive the supervisor, written one project's `Batch` at a time.

One writer per project (its agent) and many readers. `commit` is the only way rows of a project
change: one transaction carries the checkpoint and everything that follows from the lines before
it, so that a line is accounted exactly once (DESIGN.md D2). JSON travels as `bytes` of UTF-8.
Times are POSIX seconds, UTC, as floats.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Epoch, Generation, ProjectId


class ProjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """One project: a directory somebody gave us."""

    project: ProjectId
    path: str
    account: str
    trusted: bool
    desired: str
    """`running` or `stopped`: what a person asked for."""
    created_at: float
    quarantine: str | None = None
    """Why it is not started any more, until a person or a config change releases it."""


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """How far the spool of a project is accounted. One row a project."""

    project: ProjectId
    epoch: Epoch
    next_n: int
    """The number the next line or own event takes."""
    generation: Generation
    offset: int
    """Bytes of that generation's spool that are accounted."""
    window_n: int
    """The oldest number that can still be replayed, and where its line starts."""
    window_generation: Generation
    window_offset: int
    audit_seq: int
    """The audit chain's next sequence number and the hash of its last record."""
    audit_hash: str
    host: str
    boot_id: str


class GenerationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One start of an app-server."""

    project: ProjectId
    generation: Generation
    state: str
    """`spawning`, `running` or `ended`."""
    runtime: str
    marker: str
    """The value every process of this generation carries in its environment."""
    first_n: int
    """The number its first line takes."""
    started_at: float
    trusted: bool = False
    """What Codex was told of the project at the start."""
    pid: int | None = None
    pid_start_ticks: int | None = None
    """Field 22 of /proc/<pid>/stat: a pid alone is not identity."""
    boot_id: str | None = None
    final_size: int | None = None
    """The spool's size when the exit was handled; bytes past it do not count."""
    exit_kind: str | None = None
    exit_detail: str | None = None
    ended_at: float | None = None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the supervisor's own events; lines of the agent are in the spool."""

    project: ProjectId
    n: int
    generation: Generation
    offset: int
    """Where in that generation's spool reading stopped for it."""
    thread_id: str | None
    message: bytes
    """JSON: `{"method": ..., "params": ...}`."""
    at: float


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    project: ProjectId
    thread_id: str
    account: str
    status: str
    """`idle`, `active`, `not_loaded`, `archived` or `lost`."""
    cwd: str
    name: str | None
    settings: bytes
    """JSON object: what the thread was started with, applied again on resume."""
    has_turns: bool
    created_at: float
    updated_at: float


class IntentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request that acts, committed before it is written to the agent (D10, D12)."""

    project: ProjectId
    request_id: str
    """The upstream id; also the `clientUserMessageId` of turns and steers."""
    method: str
    thread_id: str | None
    turn_id: str | None
    idempotency_key: str | None
    params_hash: str
    """sha256 hex of the request as the client meant it: guards the idempotency key."""
    params: bytes
    """JSON: the params to write upstream, needed to send again what provably never arrived."""
    state: str
    """`pending`, `done` or `failed`."""
    outcome: bytes | None
    """JSON: the upstream result, or the error shown."""
    account: str
    principal: str
    source: str
    client: str
    n: int
    created_at: float
    settled_at: float | None = None


class TurnRow(msgspec.Struct, frozen=True, kw_only=True):
    project: ProjectId
    thread_id: str
    turn_id: str
    state: str
    """`in_progress`, `completed`, `interrupted` or `failed`."""
    generation: Generation
    request_id: str | None
    """The intent that started it, if we did."""
    error: bytes | None
    started_n: int
    ended_n: int | None
    started_at: float
    ended_at: float | None


class ItemRow(msgspec.Struct, frozen=True, kw_only=True):
    project: ProjectId
    thread_id: str
    turn_id: str
    item_id: str
    kind: str
    """Codex's item `type`."""
    state: str
    """`open`, `completed` or `abandoned` (its turn ended without it)."""
    body: bytes
    """JSON: the item as last seen whole."""
    started_n: int
    completed_n: int | None
    partial_text: str | None = None
    """The text of an open item up to and including event `partial_n`, when its deltas left the
    replay window."""
    partial_n: int | None = None


class ServerRequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the app-server that waits for somebody: approvals, questions, dynamic tools."""

    project: ProjectId
    approval_id: str
    """`<generation>-<upstream id>`: unique in the project, opaque to clients."""
    generation: Generation
    request_id: bytes
    """The upstream id as JSON: the answer must keep its type."""
    method: str
    thread_id: str | None
    turn_id: str | None
    item_id: str | None
    params: bytes
    state: str
    """See lifecycle.approval."""
    asked_n: int
    asked_at: float
    answer: bytes | None = None
    """JSON: the result written, or to be written, to the agent."""
    answered_by: str | None = None
    settled_at: float | None = None


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a project's audit chain. See supervisor.audit.record for the kinds."""

    project: ProjectId
    seq: int
    at: float
    kind: str
    phase: str
    """`intent`, `outcome` or `fact`."""
    account: str
    principal: str
    source: str
    client: str
    host: str
    generation: Generation
    n: int
    """The event it follows from."""
    thread_id: str | None
    turn_id: str | None
    item_id: str | None
    detail: bytes
    """JSON object, keys sorted."""
    hash: str
    """sha256 hex over the previous record's hash and this record."""


class Batch(msgspec.Struct, kw_only=True):
    """Everything one transaction writes for one project. Rows replace rows of the same key."""

    project: ProjectId
    wished: ProjectRow | None = None
    """The project's own row: what is desired of it."""
    checkpoint: CheckpointRow | None = None
    generations: dict[int, GenerationRow] = msgspec.field(default_factory=dict)
    events: list[EventRow] = msgspec.field(default_factory=list)
    threads: dict[str, ThreadRow] = msgspec.field(default_factory=dict)
    intents: dict[str, IntentRow] = msgspec.field(default_factory=dict)
    turns: dict[tuple[str, str], TurnRow] = msgspec.field(default_factory=dict)
    items: dict[tuple[str, str, str], ItemRow] = msgspec.field(default_factory=dict)
    """By (thread, turn, item)."""
    server_requests: dict[str, ServerRequestRow] = msgspec.field(default_factory=dict)
    audit: list[AuditRow] = msgspec.field(default_factory=list)
    drop_events_below: int | None = None
    """Own events numbered below this have left the replay window."""


class ProjectState(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent must know to go on after a restart of the supervisor."""

    checkpoint: CheckpointRow | None
    generations: list[GenerationRow]
    """Those not ended, and those from `window_generation` on, oldest first."""
    events: list[EventRow]
    """Own events of the replay window, by number."""
    threads: list[ThreadRow]
    open_turns: list[TurnRow]
    open_items: list[ItemRow]
    pending_intents: list[IntentRow]
    waiting_requests: list[ServerRequestRow]
    """Waiting, or answered and not yet resolved."""


class CommitInDoubtError(SupervisorError):
    """A commit failed at its very end, when it may have been made: only writing the same again
    tells. Its code is `store_unavailable`."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.STORE_UNAVAILABLE, message)


class Store(Protocol):
    """Raises `SupervisorError` with `store_unavailable` (locked, away, disk full: retry),
    `store_corrupt` or `store_too_new`; never a driver's own error."""

    async def open(self) -> None:
        """Connect, check the version, migrate up."""

    async def close(self) -> None:
        """Let go of every connection."""

    async def put_project(self, row: ProjectRow) -> None:
        """Insert, or replace the row of that id."""

    async def projects(self) -> list[ProjectRow]:
        """All of them, by id."""

    async def project(self, project: ProjectId) -> ProjectRow | None:
        """One of them."""

    async def commit(self, batch: Batch) -> None:
        """Write all of it or nothing, durably. Writing a batch again changes nothing.

        `store_unavailable`: nothing was written; as `CommitInDoubtError`: all of it or nothing was.

        A row whose text the engine cannot hold (U+0000 in PostgreSQL, a lone surrogate) is
        written with that text replaced by a JSON object saying so: the checkpoint always moves.
        """

    async def project_state(self, project: ProjectId) -> ProjectState:
        """What the agent goes on from."""

    async def intent_by_key(
        self, project: ProjectId, account: str, idempotency_key: str
    ) -> IntentRow | None:
        """The intent a key was used for."""

    async def threads(self, project: ProjectId) -> list[ThreadRow]:
        """All threads, newest first."""

    async def turns(self, project: ProjectId, thread_id: str, limit: int) -> list[TurnRow]:
        """The last `limit` turns of a thread, oldest first."""

    async def items(
        self, project: ProjectId, thread_id: str, turn_ids: Sequence[str]
    ) -> list[ItemRow]:
        """Items of these turns, in the order they started."""

    async def turn_owner(self, project: ProjectId, turn_id: str) -> IntentRow | None:
        """The intent that started a turn."""

    async def generations(self, project: ProjectId, limit: int) -> list[GenerationRow]:
        """The last `limit` generations, newest first."""

    async def audit(
        self, project: ProjectId, *, after_seq: int, limit: int, thread_id: str | None = None
    ) -> list[AuditRow]:
        """Audit records with `seq` above `after_seq`, in order."""
