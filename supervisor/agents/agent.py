"""The agent: what the RPC sees of one project. Implements `ports.agent.Agent`.

It owns a ledger (what is numbered and stored), a supervision (the app-server's life) and the acting
on both; it decides nothing itself.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from supervisor.agents.acting import Acting
from supervisor.agents.ledger import Change, Ledger
from supervisor.agents.opening import open_ledger
from supervisor.agents.shared import Shared
from supervisor.agents.spool import SpoolPaths, punch, tail
from supervisor.agents.supervision import Supervision
from supervisor.agents.upstream import Upstream
from supervisor.broker.subscription import Subscription
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Generation
from supervisor.lifecycle.agent import AgentState
from supervisor.lifecycle.restart import ExitKind
from supervisor.logs import bound, get_logger
from supervisor.policy.access import Principal
from supervisor.ports.agent import Acted, ProjectStatus
from supervisor.ports.store import AuditRow, CheckpointRow, ProjectRow, ServerRequestRow

T = TypeVar("T")
log = get_logger()
PUNCH_EVERY_BYTES = 1024 * 1024
"""Bytes that leave the window are given back in pieces of this size, not one block at a time."""


class Agent:
    """Made by the pool. Everything but `run` and `opened` needs the agent to be opened."""

    def __init__(self, shared: Shared, row: ProjectRow) -> None:
        self.project = row.project
        self._shared = shared
        self._row = row
        self._directory = shared.project_dir(row.project)
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup
        self._ledger: Ledger
        self._acting: Acting
        self._supervision: Supervision
        self._punched = (Generation(0), 0)

    # -- its life

    async def run(self) -> None:
        """From opening the ledger to being cancelled, which leaves the app-server running."""
        with bound(project=self.project):
            try:
                await self._open()
            except Exception as e:
                self._opened.set_exception(e)
                self._opened.exception()  # seen, if nobody waits
                raise
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._tasks = tasks
                    self._opened.set_result(None)
                    tasks.create_task(self._ledger.run())
                    tasks.create_task(self._supervision.run())
            finally:
                self._ledger.fanout.close()

    async def opened(self) -> None:
        """Wait until it can be used. Raises what opening it raised."""
        await asyncio.shield(self._opened)

    async def caught_up(self) -> None:
        """Wait until what was spooled while no supervisor looked has been read."""
        await self._supervision.caught_up.wait()

    async def _open(self) -> None:
        opened = await open_ledger(self._shared, self.project)
        if opened.discontinued:
            log.warning("epoch_renewed", reason=opened.discontinued)
        ledger = self._ledger = opened.ledger
        self._supervision = Supervision(self._shared, self._row, ledger, opened.last)
        self._acting = Acting(
            self._shared,
            ledger,
            Path(self._row.path),
            trusted=lambda: self._supervision.row.trusted,
            upstream=self._upstream,
        )
        ledger.agent_view = self._view
        ledger.on_durable = self._on_durable

    # -- what anybody may see

    @property
    def account(self) -> str:
        """Whose project it is."""
        return self._supervision.row.account

    @property
    def row(self) -> ProjectRow:
        """The project as it is desired."""
        return self._supervision.row

    @property
    def state(self) -> AgentState:
        """As observed."""
        return self._supervision.condition.state

    @property
    def lagged(self) -> int:
        """How often any subscriber was overrun."""
        return self._ledger.fanout.lagged

    @property
    def expired(self) -> int:
        """How often a cursor could not be continued from."""
        return self._ledger.fanout.expired

    def count_late_bytes(self) -> None:
        """Look whether anybody wrote into the spools of ended generations."""
        self._supervision.late.count()

    def status(self) -> ProjectStatus:
        sup, ledger = self._supervision, self._ledger
        memory, inc = ledger.projection.memory, sup.incarnation
        now, period = self._shared.clock.monotonic(), sup.policy.period_seconds
        recent = [p for p in sup.history if now - p.at_monotonic < period]
        return ProjectStatus(
            project=self.project,
            path=sup.row.path,
            account=sup.row.account,
            trusted=sup.row.trusted,
            state=self.state.value,
            desired=sup.row.desired,
            reason=self._reason(),
            runtime=self._shared.runtime.name,
            generation=sup.generation.generation if sup.generation else 0,
            pid=sup.generation.pid if sup.generation and inc else None,
            codex_version=sup.codex_version,
            cursor=str(ledger.cursor),
            active_turns=len(memory.turns),
            waiting_approvals=len(memory.waiting()),
            subscribers=len(ledger.fanout),
            store_waiting=ledger.store_waiting,
            spool_backlog_bytes=inc.backlog if inc else 0,
            restarts=sum(p.kind is not ExitKind.ASKED for p in recent),
        )

    def _reason(self) -> str | None:
        sup = self._supervision
        if self._ledger.store_waiting:
            return "the store is away: this project waits in its spool"
        if sup.incarnation is not None and sup.incarnation.paused:
            return "paused: its spool has grown past the bound"
        return sup.condition.reason

    def _view(self) -> dict[str, object]:
        generation = self._supervision.generation
        return {
            "state": self.state.value,
            "generation": generation.generation if generation else 0,
            "reason": self._reason(),
        }

    # -- what clients ask

    async def ready(self, timeout: float) -> None:
        condition = self._supervision.condition
        if condition.state is AgentState.READY:
            return
        try:
            async with asyncio.timeout(timeout):
                while condition.state is not AgentState.READY:
                    self._refuse_if_hopeless()
                    await condition.changed()
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.AGENT_NOT_READY,
                f"the agent is {condition.state.value} still ({self._reason() or 'on its way'})",
            ) from None

    def _refuse_if_hopeless(self) -> None:
        if self.state is AgentState.QUARANTINED:
            raise SupervisorError(ErrorCode.AGENT_QUARANTINED, self._reason() or "quarantined")
        if self.row.desired != "running":
            if self.state is AgentState.DRAINING:
                raise SupervisorError(ErrorCode.AGENT_DRAINING, "the project is being stopped")
            raise SupervisorError(
                ErrorCode.AGENT_NOT_READY,
                "the project is stopped",
                hint="Open it again, or restart it.",
                retryable=False,
            )

    def _upstream(self) -> Upstream:
        inc = self._supervision.incarnation
        if self.state is AgentState.DRAINING:
            raise SupervisorError(ErrorCode.AGENT_DRAINING, "the app-server is being stopped")
        if inc is None:
            # Where it counts as ready still, its end waits to be committed.
            why = self._reason() or "its next start is on its way"
            raise SupervisorError(ErrorCode.AGENT_NOT_READY, f"no app-server runs ({why})")
        return inc.upstream

    async def ask(self, method: str, params: object) -> msgspec.Raw:
        settings = self._shared.settings
        await self.ready(settings.start_timeout_seconds)
        return await self._upstream().ask(method, params, timeout=settings.request_timeout_seconds)

    async def act(
        self,
        principal: Principal,
        method: str,
        params: dict[str, object],
        *,
        idempotency_key: str | None = None,
    ) -> Acted:
        await self.ready(self._shared.settings.start_timeout_seconds)
        return await self._carried(self._acting.act(principal, method, params, idempotency_key))

    def waiting(self) -> list[ServerRequestRow]:
        return self._ledger.projection.memory.waiting()

    async def answer(self, principal: Principal, approval_id: str, result: object) -> None:
        await self._carried(self._acting.answer(principal, approval_id, result))

    async def subscribe(self, thread_id: str | None, after: Cursor | None) -> Subscription:
        return self._ledger.fanout.subscribe(self._ledger, thread_id, after)

    async def audit(self, after_seq: int, limit: int, thread_id: str | None) -> list[AuditRow]:
        await self._carried(self._ledger.flush())
        return await self._shared.store.audit(
            self.project, after_seq=after_seq, limit=limit, thread_id=thread_id
        )

    def audit_end(self) -> tuple[int, str]:
        chain = self._ledger.projection.chain
        return chain.seq, chain.head

    async def log_tail(self, limit_bytes: int) -> str:
        generation = self._supervision.generation
        if generation is None:
            return ""
        paths = SpoolPaths(self._directory, generation.generation)
        return tail(paths.stderr, limit_bytes).decode(errors="replace")

    async def _carried(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry `work` to its end even if the asker goes away in the middle: between a commit and
        the write that follows it nobody may be cancelled."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def carry() -> None:
            try:
                result = await work
            except asyncio.CancelledError:
                done.cancel()
                raise
            except Exception as e:  # noqa: BLE001  # the asker gets it, whatever it is
                done.set_exception(e)
                done.exception()  # seen: the asker may be gone
            else:
                done.set_result(result)

        self._tasks.create_task(carry())
        return await asyncio.shield(done)

    # -- what the pool orders

    def want(self, row: ProjectRow, *, restart: bool = False) -> None:
        """What is desired has changed; a restart also releases a quarantine."""
        self._supervision.want(row, restart=restart)

    async def record(self, change: Change) -> None:
        """Commit and publish what the pool decided about this project."""
        await self._carried(self._ledger.barrier(lambda n, at: change))

    async def at_rest(self) -> None:
        """Wait until no app-server runs and none is about to."""
        await self._supervision.at_rest()

    # -- disk

    def _on_durable(self, checkpoint: CheckpointRow) -> None:
        """Give back what is behind both the durable checkpoint and the window."""
        if not self._shared.settings.punch_spools or not checkpoint.window_generation:
            return
        generation, offset = self._punched
        start = checkpoint.window_generation
        if start != generation:
            for number in self._kept_generations():
                if number < start:
                    self._drop(SpoolPaths(self._directory, number))
            offset = 0
        if checkpoint.window_offset - offset >= PUNCH_EVERY_BYTES or start != generation:
            try:
                punch(SpoolPaths(self._directory, start).stdout, checkpoint.window_offset)
            except FileNotFoundError:
                return
            self._punched = (start, checkpoint.window_offset)

    def _kept_generations(self) -> list[Generation]:
        names = [p.name for p in self._directory.iterdir() if p.name.isdigit()]
        return sorted(Generation(int(name)) for name in names)

    def _drop(self, paths: SpoolPaths) -> None:
        try:
            paths.remove()
        except OSError as e:
            log.warning("spool_not_removed", generation=paths.generation, error=str(e))
