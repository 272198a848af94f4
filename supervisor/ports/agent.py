"""What the RPC sees of an agent, and of all of them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from supervisor.ids import Cursor, ProjectId
from supervisor.policy.access import Principal
from supervisor.policy.inner_wall import InnerWall
from supervisor.policy.places import ProjectPaths
from supervisor.ports.runtime import Command, Confinement, ExecLine
from supervisor.ports.store import AuditRow, ServerRequestRow


class ProjectStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One project as `projectStatus`, `ps` and metrics show it."""

    project: str
    path: str
    inside: str
    """Where the app-server has it: the same path, unless it is mounted elsewhere."""
    account: str
    trusted: bool
    state: str
    """A state of lifecycle.agent: desired and observed are two things."""
    desired: str
    reason: str | None
    """Why it is backing off, quarantined, lost or waiting; None where all is well."""
    runtime: str
    generation: int
    pid: int | None
    codex_version: str | None
    cursor: str
    """Of the last event."""
    active_turns: int
    waiting_approvals: int
    subscribers: int
    store_waiting: bool
    """The store is away, and this project waits in its spool."""
    spool_backlog_bytes: int
    restarts: int
    """Unasked exits within the intensity period."""
    confinement: Confinement | None = None
    """What stands around the app-server that runs; None for a plain process, or none."""
    inner_wall: InnerWall | None = None
    """Codex's own sandbox in that container; None while it is not known, and without one."""

    @property
    def paths(self) -> ProjectPaths:
        """Where the project is, for the host and for the app-server."""
        return ProjectPaths(Path(self.path), Path(self.inside))


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request that acts."""

    request_id: str
    result: msgspec.Raw
    """The app-server's result, JSON."""
    replayed: bool
    """The idempotency key had been used for the same request: nothing was done again."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A command in a container, that may be run now."""

    exec_id: str
    """Under which the audit log has it."""
    line: ExecLine


class Subscription(Protocol):
    """A stream of JSON payloads, each `bytes`, from a cursor on: see broker.payloads.

    It never ends by itself but for the project's removal. A consumer that does not keep up costs
    a bounded buffer, is told `lagging`, and is caught up from the spool.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The payloads, in order."""

    def close(self) -> None:
        """Let go of it. Idempotent."""


class Agent(Protocol):
    """One project's agent. Everything raises `SupervisorError` only."""

    project: ProjectId

    @property
    def account(self) -> str:
        """Whose project it is. Asked with every request: `status` is ten times as dear."""

    def status(self) -> ProjectStatus:
        """As of now."""

    async def ready(self, timeout: float) -> None:
        """Wait until the app-server has answered, starting it if need be. Seconds."""

    async def ask(self, method: str, params: object) -> msgspec.Raw:
        """A read: passed upstream, its result passed back. `codex_refused` carries Codex's words
        in the message, and its error object in `details["error"]`."""

    async def act(
        self,
        principal: Principal,
        method: str,
        params: dict[str, object],
        *,
        idempotency_key: str | None = None,
    ) -> Acted:
        """A request that acts: intent committed, then written, then its outcome.

        `thread/start`, `turn/start`, `turn/steer`, `turn/interrupt`, `thread/name/set`,
        `thread/archive`, `thread/resume`. `idempotency_mismatch` if the key was used otherwise.
        """

    def waiting(self) -> list[ServerRequestRow]:
        """Server requests that wait for an answer, oldest first."""

    async def answer(self, principal: Principal, approval_id: str, result: object) -> None:
        """Answer one: the first answer wins (`approval_settled`). `result` is what Codex's schema
        says for that server request; `bad_request` if it is not."""

    async def subscribe(self, thread_id: str | None, after: Cursor | None) -> Subscription:
        """Snapshot, then live; with `after`: replay, then live, with no gap and no double."""

    async def audit(self, after_seq: int, limit: int, thread_id: str | None) -> list[AuditRow]:
        """Audit records, in order."""

    def audit_end(self) -> tuple[int, str]:
        """The number the next record takes, and the hash of the last: not from the records."""

    async def begin_exec(self, principal: Principal, command: Command) -> Begun:
        """Commit that `principal` is about to run this in the agent's container, and say how.

        `bad_request` without a container, `agent_not_ready` while none runs or it is paused.
        """

    async def end_exec(
        self, principal: Principal, exec_id: str, exit_code: int, duration_ms: int
    ) -> None:
        """Commit how it ended."""

    async def log_tail(self, limit_bytes: int) -> str:
        """The end of the app-server's stderr."""


class Agents(Protocol):
    """All agents of this supervisor."""

    async def open(self, principal: Principal, path: str) -> Agent:
        """The agent of that directory: made and started if need be.

        `project_path_refused`: not absolute, not a directory, a symlink, outside the allowed
        roots, inside the state directory.
        """

    def get(self, project: str) -> Agent:
        """`project_unknown` if there is none. Callers have checked the principal's right to it."""

    def all(self) -> Sequence[Agent]:
        """By project id."""

    async def stop(self, principal: Principal, project: str) -> None:
        """Drain and stop the app-server; it stays stopped until asked for again."""

    async def restart(self, principal: Principal, project: str) -> None:
        """Stop and start again; releases a quarantine."""

    async def trust(self, principal: Principal, project: str, trusted: bool) -> None:
        """A person vouches for the directory's own Codex config; restarts a running agent."""
