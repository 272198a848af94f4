"""The agent: what the RPC sees of one project. Implements `ports.agent.Agent`.

It owns a ledger (what is numbered and stored), a supervision (the app-server's life) and the acting
on both; it decides nothing itself.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from supervisor.agents import execs
from supervisor.agents.acting import Acting
from supervisor.agents.carrier import Carrier
from supervisor.agents.incarnation import Incarnation
from supervisor.agents.ledger import Change, Ledger
from supervisor.agents.opening import open_ledger
from supervisor.agents.reached import Reached
from supervisor.agents.shared import Shared
from supervisor.agents.spool import SpoolPaths, punch, tail
from supervisor.agents.supervision import Supervision
from supervisor.agents.upstream import Upstream
from supervisor.broker.subscription import Subscription
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Generation
from supervisor.lifecycle.agent import AT_REST, AgentState
from supervisor.logs import get_logger
from supervisor.policy.access import Principal
from supervisor.ports.agent import Acted, Begun, ProjectStatus
from supervisor.ports.runtime import Command, Usage
from supervisor.ports.store import AuditRow, CheckpointRow, ProjectRow, ServerRequestRow

T = TypeVar("T")
log = get_logger()
PUNCH_EVERY_BYTES = 1024 * 1024
"""Bytes that leave the window are given back in pieces of this size, not one block at a time."""


class Agent:
    """Made by a `Life`. Everything but `run` needs the agent to be opened."""

    def __init__(
        self, shared: Shared, row: ProjectRow, *, strays: frozenset[str] = frozenset()
    ) -> None:
        self.project = row.project
        self.failure: str | None = None
        """Why this agent is no more; another takes its place."""
        self.wishes = asyncio.Lock()
        """Held from reading what is desired to its being carried out."""
        self._strays = strays
        self._shared = shared
        self._row = row
        self._directory = shared.project_dir(row.project)
        self._carrier = Carrier()
        self._ledger: Ledger
        self._acting: Acting
        self._supervision: Supervision
        self._reached = Reached(self._directory)
        self._punched = (Generation(0), 0)
        self._execs = execs.OpenExecs()

    # -- its life

    async def run(self, on_open: Callable[[], None]) -> None:
        """From opening the ledger to being cancelled, which leaves the app-server running.

        `on_open` is called once it can be used.
        """
        await self._open()
        try:
            async with self._carrier, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ledger.run())
                tasks.create_task(self._supervision.run())
                on_open()
        finally:
            self._ledger.fanout.close()

    def fail(self, reason: str) -> None:
        """It has failed, and runs no more."""
        self.failure = reason
        self._supervision.condition.poke()

    async def end_processes(self) -> None:
        """End what a failed agent left running."""
        generation = self._supervision.generation
        if generation is not None:
            await self._shared.runtime.sweep(generation.marker)

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is carried to its end whoever goes away meanwhile."""
        return await self._carrier.carry(work)

    async def caught_up(self) -> None:
        """Wait until what was spooled while no supervisor looked has been read."""
        await self._supervision.caught_up.wait()

    async def _open(self) -> None:
        opened = await open_ledger(self._shared, self.project, self._carrier)
        if opened.discontinued:
            log.warning("epoch_renewed", reason=opened.discontinued)
        ledger = self._ledger = opened.ledger
        self._supervision = Supervision(
            self._shared, self._row, ledger, opened.last, wishes=self.wishes, strays=self._strays
        )
        self._acting = Acting(
            self._shared,
            ledger,
            self._supervision.paths,
            carrier=self._carrier,
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
    def marker(self) -> str:
        """Of the generation that is looked after; "" if there is none, or it has been buried."""
        generation = self._supervision.generation
        return "" if generation is None or generation.state == "ended" else generation.marker

    @property
    def state(self) -> AgentState:
        """As observed. A failed agent is about to be replaced by one that looks again."""
        if self.failure is not None:
            return AgentState.BACKING_OFF
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
        return ProjectStatus(
            project=self.project,
            path=sup.row.path,
            inside=str(sup.paths.inside),
            account=sup.row.account,
            trusted=sup.row.trusted,
            state=self.state.value,
            desired=sup.row.desired,
            reason=self._reason(),
            runtime=self._shared.runtime.name,
            generation=sup.generation.generation if sup.generation else 0,
            pid=sup.generation.pid if sup.generation and inc else None,
            codex_version=sup.service.codex_version,
            cursor=str(ledger.cursor),
            active_turns=len(memory.turns),
            waiting_approvals=len(memory.waiting()),
            subscribers=len(ledger.fanout),
            store_waiting=ledger.store_waiting,
            spool_backlog_bytes=inc.backlog if inc else 0,
            restarts=sup.aftermath.restarts,
            confinement=inc.process.confinement if inc else None,
            inner_wall=sup.service.inner_wall if inc else None,
        )

    def _reason(self) -> str | None:
        sup = self._supervision
        if self.failure is not None:
            return f"the supervisor failed on this project, and tries again ({self.failure})"
        if self._ledger.store_waiting:
            return "the store is away: this project waits in its spool"
        if sup.incarnation is not None and sup.incarnation.paused:
            return f"paused: {sup.incarnation.pauses.words}"
        return sup.condition.reason

    def usage(self) -> tuple[str, Usage] | None:
        """The marker of the generation that runs in a container, and what it uses now."""
        sup = self._supervision
        usage = sup.incarnation.process.usage() if sup.incarnation else None
        return None if usage is None or sup.generation is None else (sup.generation.marker, usage)

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
        if self._answers():
            return
        try:
            async with asyncio.timeout(timeout):
                while not self._answers():
                    self._refuse_if_hopeless()
                    await condition.changed()
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.AGENT_NOT_READY,
                f"the agent is {condition.state.value} still ({self._reason() or 'on its way'})",
            ) from None

    def _answers(self) -> bool:
        return self.state is AgentState.READY

    def _refuse_if_hopeless(self) -> None:
        self._refuse_if_failed()
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

    def _refuse_if_failed(self) -> None:
        if self.failure is not None:
            raise SupervisorError(ErrorCode.AGENT_NOT_READY, self._reason() or "failed")

    def _upstream(self) -> Upstream:
        return self._incarnation().upstream

    def _incarnation(self) -> Incarnation:
        inc = self._supervision.incarnation
        if self.state is AgentState.DRAINING:
            raise SupervisorError(ErrorCode.AGENT_DRAINING, "the app-server is being stopped")
        if inc is None:
            # Where it counts as ready still, its end waits to be committed.
            why = self._reason() or "its next start is on its way"
            raise SupervisorError(ErrorCode.AGENT_NOT_READY, f"no app-server runs ({why})")
        return inc

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
        act = self._acting.act(principal, method, params, idempotency_key)
        return await self.carry(act)

    def waiting(self) -> list[ServerRequestRow]:
        return self._ledger.projection.memory.waiting()

    async def answer(self, principal: Principal, approval_id: str, result: object) -> None:
        await self.caught_up()
        await self.carry(self._acting.answer(principal, approval_id, result))

    async def subscribe(self, thread_id: str | None, after: Cursor | None) -> Subscription:
        last = self._ledger.cursor
        if after is not None and after.epoch == last.epoch and after.n > last.n:
            await self.caught_up()  # told by a predecessor, and not read again yet
        self._refuse_if_failed()
        return self._ledger.fanout.subscribe(self._ledger, thread_id, after)

    async def audit(self, after_seq: int, limit: int, thread_id: str | None) -> list[AuditRow]:
        await self.carry(self._ledger.flush())
        return await self._shared.store.audit(
            self.project, after_seq=after_seq, limit=limit, thread_id=thread_id
        )

    def audit_end(self) -> tuple[int, str]:
        chain = self._ledger.projection.chain
        return chain.seq, chain.head

    async def begin_exec(self, principal: Principal, command: Command) -> Begun:
        inc = self._incarnation()
        if inc.paused:
            raise SupervisorError(
                ErrorCode.AGENT_NOT_READY,
                self._reason() or "the container is paused",
                hint="Nothing in it runs until the reason is gone: `codex-supervisor status`.",
            )
        begun = execs.begun(inc.process, self._shared.request_ids.next(), command)
        await self.record(execs.intent(principal, begun.exec_id, command))
        self._execs.add(begun.exec_id)
        return begun

    async def end_exec(
        self, principal: Principal, exec_id: str, exit_code: int, duration_ms: int
    ) -> None:
        self._execs.take(exec_id)
        await self.record(execs.outcome(principal, exec_id, exit_code, duration_ms))

    async def log_tail(self, limit_bytes: int) -> str:
        generation = self._supervision.generation
        if generation is None:
            return ""
        paths = SpoolPaths(self._directory, generation.generation)
        return tail(paths.stderr, limit_bytes).decode(errors="replace")

    # -- what the pool orders

    def want(self, row: ProjectRow, *, restart: bool = False) -> None:
        """What is desired has changed; a restart also releases a quarantine."""
        self._supervision.want(row, restart=restart)

    def close(self) -> None:
        """The supervisor ends: so does the app-server, whatever is desired."""
        self._supervision.close()

    async def record(self, change: Change) -> None:
        """Commit and publish what the pool decided about this project."""
        await self.caught_up()
        await self._ledger.barrier(lambda n, at: change)

    async def at_rest(self) -> None:
        """Wait until no app-server runs and none is about to, or this agent has failed."""
        await self.caught_up()  # until then a predecessor's may be found
        condition = self._supervision.condition
        while self.failure is None and condition.state not in AT_REST:
            await condition.changed()

    # -- disk

    def _on_durable(self, checkpoint: CheckpointRow) -> None:
        try:
            self._reached.note(checkpoint)
            self._give_back(checkpoint)
        except OSError as e:
            # It is committed: what follows must not be lost for the sake of some disk blocks.
            log.warning("files_not_kept_up", error=str(e))

    def _give_back(self, checkpoint: CheckpointRow) -> None:
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
