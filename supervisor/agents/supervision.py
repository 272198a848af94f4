"""Supervision: one task that starts, adopts, watches, buries and restarts an app-server (D10, D11).

Nobody else moves the agent's state. What is desired is set from outside (`want`); what is observed
follows from processes and answers alone.
"""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from supervisor.agents import starting
from supervisor.agents.aftermath import Aftermath
from supervisor.agents.condition import Condition
from supervisor.agents.disk_guard import Held, guard_disk
from supervisor.agents.ending import Ended, ending
from supervisor.agents.exits import explain
from supervisor.agents.fifo import FifoWriter
from supervisor.agents.incarnation import Bounds, Incarnation
from supervisor.agents.late import LateBytes
from supervisor.agents.ledger import Ledger
from supervisor.agents.reactions import Reactions
from supervisor.agents.relist import end_stray
from supervisor.agents.service import Service
from supervisor.agents.shared import Shared
from supervisor.agents.spool import SpoolPaths, tail
from supervisor.agents.upstream import Upstream
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation
from supervisor.lifecycle.agent import AT_REST, AgentEvent, AgentState
from supervisor.lifecycle.restart import PERMANENT, ExitKind, Quarantine
from supervisor.logs import get_logger
from supervisor.ports.runtime import Exit, Process
from supervisor.ports.store import GenerationRow, ProjectRow, ThreadRow

log = get_logger()
STDERR_TAIL_BYTES = 4096


class Supervision:
    """Owned by one agent; `run` is its one task."""

    def __init__(
        self,
        shared: Shared,
        row: ProjectRow,
        ledger: Ledger,
        last: GenerationRow | None,
        *,
        wishes: asyncio.Lock,
        strays: frozenset[str],
    ) -> None:
        self.row = row
        self.condition = Condition(shared.metrics)
        self.generation = last
        self.incarnation: Incarnation | None = None
        self.late = LateBytes(shared.metrics.late_bytes)
        self.caught_up = asyncio.Event()
        """What was spooled while no supervisor looked has been read: what is shown is not stale."""
        self._shared = shared
        self._wishes = wishes
        self._strays = strays
        self._ledger = ledger
        self.paths = shared.runtime.paths(row.project, Path(row.path))
        self._in_use: list[ThreadRow] = []
        self._failure: SupervisorError | None = None
        self.aftermath = Aftermath(shared, ledger, self.condition)
        self.service = Service(shared, ledger, self.condition, self.paths)

    # -- orders

    def want(self, row: ProjectRow, *, restart: bool = False) -> None:
        """What is desired has changed. A restart also releases a quarantine."""
        self.row = row
        condition = self.condition
        if restart:
            self.aftermath.forget()
        if restart or row.desired == "stopped":
            if condition.state is AgentState.QUARANTINED:
                condition.move(AgentEvent.RELEASE)
            elif condition.state is not AgentState.STOPPED:
                self.aftermath.stop_wanted.set()
        condition.poke()

    def close(self) -> None:
        """End the app-server, whatever is desired; `Shared.closing` keeps it from starting."""
        if self.condition.state not in AT_REST:
            self.aftermath.stop_wanted.set()
        self.condition.poke()

    @property
    def _wanted(self) -> bool:
        return self.row.desired == "running" and not self._shared.closing.is_set()

    # -- the lifecycle

    async def run(self) -> None:
        """For ever. Cancelled, it leaves the app-server running: a successor adopts it."""
        try:
            adopted = await self._take_over()
            if adopted is not None:
                await self._live(adopted, adopted=True)
            self.caught_up.set()
            while True:
                await self._until_wanted()
                process = await self._launch()
                if process is not None:
                    await self._live(process, adopted=False)
        finally:
            self.caught_up.set()
            self.condition.forget()
            if self.incarnation is not None:
                self.incarnation.process.release()
                self.incarnation.close()

    async def _take_over(self) -> Process | None:
        """What a predecessor left: its process to go on with, or its end to be told."""
        last = self.generation
        unended = last is not None and last.state != "ended"
        for stray in self._strays - ({last.marker} if last and unended else set()):
            await end_stray(self._shared.runtime, stray)
        if last is None or not unended:
            return None
        process = None
        identity = starting.identity_to_adopt(self._shared, last)
        if identity is not None:
            project = self._ledger.project
            launch = starting.launch_to_adopt(self._shared, project, self.paths, last)
            process = await self._shared.runtime.adopt(launch, identity)
        if process is not None:
            self.condition.move(AgentEvent.ADOPTED)
            if process.outdated and self._wanted:
                why = f"started anew, as the settings have changed: {process.outdated}"
                log.warning("agent_outdated", why=why)
                self.condition.reason = why
                # What its end is explained by.
                self._failure = SupervisorError(ErrorCode.AGENT_RESTARTED, why)
            if not self._wanted or process.outdated or self.row.trusted != last.trusted:
                # Wanted, committed, and killed before it could be carried out.
                self.aftermath.stop_wanted.set()
            return process
        self.condition.move(AgentEvent.VANISHED)
        await self._bury_gone()
        return None

    async def _until_wanted(self) -> None:
        condition = self.condition
        while condition.state is not AgentState.STARTING:
            if condition.state is AgentState.STOPPED:
                self.aftermath.stop_wanted.clear()
                if self._wanted and self.row.quarantine is None:
                    condition.move(AgentEvent.START)
                    return
                if self._wanted:
                    condition.reason = self.row.quarantine
                    condition.move(AgentEvent.GIVE_UP)
            await condition.changed()

    async def _launch(self) -> Process | None:
        self.condition.reason, self._failure = None, None
        last, trusted = self.generation, self.row.trusted
        number = Generation((last.generation if last else 0) + 1)
        try:
            row = await starting.begin(self._shared, self._ledger, number, trusted=trusted)
        except SupervisorError as e:
            # Not even its files could be made: there is no generation to bury.
            self._shared.metrics.agent_exits.labels(ExitKind.START_FAILED.value).inc()
            await self._after_exit(ExitKind.START_FAILED, e.message)
            return None
        self.generation = row
        try:
            launch = starting.launch_of(
                self._shared, self.paths, row, trusted=trusted, walled=not self.service.unwalled
            )
            async with self._shared.starts:
                process = await self._shared.runtime.start(launch)
        except SupervisorError as e:
            self._failure = e
            await self._bury_gone()
            return None
        self.generation = await starting.recorded(self._ledger, row, process)
        return process

    # -- one generation, from its process to its end

    async def _live(self, process: Process, *, adopted: bool) -> None:
        inc, reactions = self._incarnate(process, adopted=adopted)
        if adopted:
            await inc.catch_up()
            await process.unpause()  # a predecessor may have paused it, for its backlog
            self.caught_up.set()
        was_ready = False
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(inc.run()),
                tasks.create_task(inc.watch_bounds()),
                tasks.create_task(reactions.run()),
                tasks.create_task(self._obey_stop(inc)),
                tasks.create_task(self._serve(inc, adopted=adopted)),
                tasks.create_task(self._guard_disk(inc)),
            ]
            exit_ = await process.wait()
            was_ready = self.condition.state is AgentState.READY
            for task in work:
                task.cancel()
        await self._bury(inc, exit_, was_ready=was_ready)

    def _incarnate(self, process: Process, *, adopted: bool) -> tuple[Incarnation, Reactions]:
        shared, settings = self._shared, self._shared.settings
        assert self.generation is not None
        paths = SpoolPaths(shared.project_dir(self._ledger.project), self.generation.generation)
        try:
            writer = FifoWriter(paths.stdin, torn=adopted)
        except SupervisorError:
            writer = None  # nobody has it open to read: the exit is about to be seen
        upstream = Upstream(
            writer,
            shared.request_ids,
            in_flight=settings.requests_in_flight,
            write_timeout=settings.request_timeout_seconds,
            clock=shared.clock,
            metrics=shared.metrics,
        )
        reactions = Reactions(upstream, shared.clock, shared.metrics)
        self.incarnation = Incarnation(
            process,
            paths,
            self._ledger,
            upstream,
            shared.watcher,
            bounds=Bounds(
                settings.line_limit_bytes,
                settings.spool_backlog_pause_bytes,
                settings.spool_backlog_stop_bytes,
                settings.stderr_limit_bytes,
            ),
            clock=shared.clock,
            metrics=shared.metrics,
            on_effect=reactions.on_effect,
        )
        return self.incarnation, reactions

    async def _serve(self, inc: Incarnation, *, adopted: bool) -> None:
        """A failure ends the app-server, and its exit does the rest."""
        assert self.generation is not None
        trusted = self.row.trusted
        try:
            await self.service.run(
                inc, self.generation, self._in_use, trusted=trusted, adopted=adopted
            )
        except SupervisorError as e:
            if e.code is ErrorCode.AGENT_RESTARTED:
                # Its stdin is closed: it is about to be seen to end, which says more than this
                # does, or it is no use any more.
                await self._shared.clock.sleep(self._shared.settings.stop_grace_seconds)
                e = SupervisorError(
                    ErrorCode.CODEX_TIMEOUT, "it has closed its stdin, and not ended"
                )
            self._failure = e
            await inc.process.kill_tree()

    async def _guard_disk(self, inc: Incarnation) -> None:
        disk = self._shared.disk
        if disk is not None:
            held = Held(inc.pauses, inc.process, self._disk_full)
            await guard_disk(
                self._shared,
                disk,
                held,
                self.condition,
                project=self.row.project,
                directory=self.paths.host,
            )

    def _disk_full(self, reason: str) -> None:
        self._failure = SupervisorError(ErrorCode.DISK_FULL, reason)

    async def _obey_stop(self, inc: Incarnation) -> None:
        """Drain: interrupt what runs, ask to end, then end."""
        await self.aftermath.stop_wanted.wait()
        self.condition.move(AgentEvent.STOP)
        grace = self._shared.settings.stop_grace_seconds
        memory = self._ledger.projection.memory
        try:
            async with asyncio.timeout(grace):
                for turn in list(memory.turns.values()):
                    params = {"threadId": turn.thread_id, "turnId": turn.turn_id}
                    with contextlib.suppress(SupervisorError):
                        await inc.upstream.ask("turn/interrupt", params, timeout=grace, own=True)
                while memory.turns:
                    await self._shared.clock.sleep(0.02)
        except TimeoutError:
            log.info("drain_cut_short", turns=len(memory.turns))
        await inc.process.terminate()
        await self._shared.clock.sleep(grace)
        await inc.process.kill_tree()

    # -- ends

    async def _bury_gone(self) -> None:
        """A generation without a process: what it spooled still counts, what it left is ended."""
        assert self.generation is not None
        gone = starting.GoneProcess(self._shared, self.generation.marker)
        inc, _ = self._incarnate(gone, adopted=False)
        await self._bury(inc, Exit(), was_ready=False)

    async def _bury(self, inc: Incarnation, exit_: Exit, *, was_ready: bool) -> None:
        assert self.generation is not None
        _, size = await inc.finish()
        stderr = tail(inc.paths.stderr, STDERR_TAIL_BYTES).decode(errors="replace")
        inc.close()
        self.incarnation = None
        asked = self.condition.state is AgentState.DRAINING
        kind, detail = explain(
            exit_,
            self._failure,
            asked=asked,
            ready=was_ready,
            overrun=inc.overrun,
            stderr=stderr,
        )
        memory = self._ledger.projection.memory
        self._in_use += [t for t in memory.threads.values() if t.status in {"idle", "active"}]
        ended = Ended(generation=self.generation, kind=kind, detail=detail, final_size=size)
        self.late.ended(inc.paths.stdout, size)
        self._count_end(kind, len(memory.turns), len(memory.waiting()))
        await self._ledger.barrier(lambda n, at: ending(memory, ended, n, at), patient=True)
        self.generation = msgspec.structs.replace(self.generation, state="ended")
        log.info("agent_exited", kind=kind.value, generation=ended.generation.generation)
        await self._after_exit(kind, ended.detail)

    def _count_end(self, kind: ExitKind, turns: int, waiting: int) -> None:
        metrics = self._shared.metrics
        metrics.agent_exits.labels(kind.value).inc()
        metrics.turns.labels("interrupted").inc(turns)
        metrics.approvals.labels("abandoned").inc(waiting)

    async def _after_exit(self, kind: ExitKind, detail: str) -> None:
        verdict = self.aftermath.judge(kind)
        if isinstance(verdict, Quarantine):
            await self._give_up(verdict, detail)
        elif verdict is not None:
            self.condition.reason = f"{kind.value}: {detail}"
            await self.aftermath.back_off(verdict.delay_seconds, wanted=self._wanted)

    async def _give_up(self, verdict: Quarantine, detail: str) -> None:
        async with self._wishes:
            if self.aftermath.stop_wanted.is_set():
                # Somebody asked for a restart, or for rest, before it was given up.
                self.condition.move(AgentEvent.STOP)
                return
            self.condition.reason = f"{verdict.reason}: {detail}"
            row = self.row
            if verdict.kind not in PERMANENT:
                # What no restart mends is mended outside: the next supervisor looks whether it was.
                row = msgspec.structs.replace(row, quarantine=self.condition.reason)
            await self.aftermath.tell(verdict, detail, row)
            self.row = row
            self.condition.move(AgentEvent.GIVE_UP)
