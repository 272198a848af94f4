"""All agents of this supervisor, by project. Implements `ports.agent.Agents`."""

import asyncio
from collections import defaultdict

import msgspec

from supervisor.agents.agent import Agent
from supervisor.agents.ledger import Change, own_event
from supervisor.agents.life import Life
from supervisor.agents.places import check_containable, check_place
from supervisor.agents.relist import Spared, end_stray, relist
from supervisor.agents.shared import Shared
from supervisor.audit import record
from supervisor.audit.record import Draft
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.logs import get_logger
from supervisor.policy.access import Principal
from supervisor.policy.places import project_id
from supervisor.ports.store import Batch, ProjectRow

log = get_logger()
LISTED_WITHIN = 10.0
"""Seconds for the runtime to say what there is."""
CATCH_UP_SECONDS = 30.0
"""A supervisor serves after that, though some project still reads what it missed."""
TOLD_WITHIN = 5.0
"""Seconds for the store to take in the ends of what was stopped."""


class Pool:
    """Enter it before use: agents live as long as it is entered."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lives: dict[ProjectId, Life] = {}
        self._running: list[asyncio.Task[None]] = []
        self._opening = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Pool":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def adopt_all(self) -> None:
        """Take over every project of the store: running app-servers go on, dead ones are told.

        A project whose app-server is not there starts when somebody opens it. What was spooled
        meanwhile has been read when this returns, so that clients who come back find their cursors
        valid and their approvals listed; a project that takes longer is waited for no longer.
        """
        rows = await self._shared.store.projects()
        strays = await self._strays({row.project for row in rows})
        lives = [self._begin(row, strays[row.project]) for row in rows]
        await asyncio.gather(*(self._taken_over(life) for life in lives))
        self._running.append(self._tasks.create_task(self._relist()))

    async def _relist(self) -> None:
        shared = self._shared
        await relist(
            shared.runtime,
            shared.state_id,
            self._spared,
            clock=shared.clock,
            seconds=shared.settings.podman.relist_seconds,
        )

    def _spared(self) -> list[Spared]:
        return [Spared(project, life.marker) for project, life in self._lives.items()]

    async def _strays(self, known: set[ProjectId]) -> dict[str, frozenset[str]]:
        """The markers that processes of this state directory carry, by project; what belongs to no
        project of the store (it was restored, say) is ended at once."""
        state_id = self._shared.state_id
        found: dict[str, set[str]] = defaultdict(set)
        for marker in await self._listed():
            found[marker.removeprefix(f"{state_id}:").rpartition(":")[0]].add(marker)
        for project in found.keys() - known:
            for marker in found.pop(project):
                await end_stray(self._shared.runtime, marker)
        return defaultdict(frozenset, {name: frozenset(of) for name, of in found.items()})

    async def _listed(self) -> set[str]:
        """Of a runtime that cannot tell now, nothing: what runs is adopted without it, and what is
        stray the relist finds."""
        try:
            async with asyncio.timeout(LISTED_WITHIN):
                return await self._shared.runtime.markers(f"{self._shared.state_id}:")
        except Exception as e:  # noqa: BLE001  # whatever it is, agents live on without this
            log.warning("strays_unknown", error=str(e) or "it did not say in time")
            return set()

    async def _taken_over(self, life: Life) -> None:
        try:
            agent = await life.opened()
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await agent.caught_up()
        except TimeoutError:
            log.warning("project_not_caught_up")
        except Exception:  # noqa: BLE001  # its life has logged it, and goes on trying
            return

    def _begin(self, row: ProjectRow, strays: frozenset[str] = frozenset()) -> Life:
        life = self._lives[row.project] = Life(self._shared, row, strays)
        self._running.append(self._tasks.create_task(life.run()))
        return life

    # -- ports.agent.Agents

    async def open(self, principal: Principal, path: str) -> Agent:
        settings = self._shared.settings
        place = check_place(path, settings.project_roots, settings.state_dir)
        name = project_id(place)
        async with self._opening:
            life = self._lives.get(name)
            made = life is None
            if life is None:
                if self._shared.runtime.contains:
                    check_containable(place, [life.path for life in self._lives.values()])
                life = await self._made(principal, name, str(place))
        if life.account != principal.account:
            raise SupervisorError(ErrorCode.FORBIDDEN, "another account has this project")
        agent = await life.opened()
        if made or agent.row.desired != "running":
            draft = record.project_opened(principal, str(place))
            await self._order(agent, draft, "projectOpened", desired="running")
        return agent

    async def _made(self, principal: Principal, name: ProjectId, path: str) -> Life:
        row = ProjectRow(
            project=name,
            path=path,
            account=principal.account,
            trusted=False,
            desired="running",
            created_at=self._shared.clock.now().timestamp(),
        )
        await self._shared.store.put_project(row)
        return self._begin(row)

    def get(self, project: str) -> Agent:
        life = self._lives.get(ProjectId(project))
        if life is None:
            raise SupervisorError(ErrorCode.PROJECT_UNKNOWN, "there is no such project")
        if life.agent is None:
            raise SupervisorError(ErrorCode.AGENT_NOT_READY, "the project is not opened yet")
        return life.agent

    def all(self) -> list[Agent]:
        lives = (self._lives[name] for name in sorted(self._lives))
        return [life.agent for life in lives if life.agent is not None]

    async def stop(self, principal: Principal, project: str) -> None:
        agent = self.get(project)
        draft = record.project_stopped(principal)
        await self._order(agent, draft, "projectStopped", desired="stopped")
        await agent.at_rest()

    async def restart(self, principal: Principal, project: str) -> None:
        agent = self.get(project)
        draft = record.project_restarted(principal)
        await self._order(agent, draft, "projectRestarted", desired="running", quarantine=None)

    async def trust(self, principal: Principal, project: str, trusted: bool) -> None:
        agent = self.get(project)
        draft = record.project_trusted(principal, agent.row.path, trusted=trusted)
        event = "projectTrusted" if trusted else "projectUntrusted"
        await self._order(agent, draft, event, trusted=trusted, quarantine=None)

    async def _order(self, agent: Agent, draft: Draft, event: str, **changes: object) -> None:
        """Tell, store and carry out what somebody wants of a project, one wish after the other.

        What changes more than whether it runs takes a restart.
        """
        params: dict[str, object] = {"account": draft.account, "principal": draft.principal}
        told = own_event(f"supervisor/{event}", params)

        async def obeyed() -> None:
            async with agent.wishes:
                row = msgspec.structs.replace(agent.row, **changes)
                wished = Batch(project=row.project, wished=row)
                await agent.record(Change(events=[told], rows=wished, drafts=[draft]))
                agent.want(row, restart="quarantine" in changes)

        await agent.carry(obeyed())

    async def _ended(self, life: Life) -> None:
        try:
            agent = await life.opened()
        except Exception:  # noqa: BLE001  # its life has logged it; what it left is swept
            return
        agent.close()
        await agent.at_rest()

    async def stop_all(self) -> bool:
        """End every app-server, in order, without changing what is desired; whether all is told.

        False where the store is away for too long: the app-servers have ended, and the successor
        reads their spools to the end.
        """
        self._shared.closing.set()
        try:
            # Twice the grace: to interrupt what runs, and to end.
            async with asyncio.timeout(2 * self._shared.settings.stop_grace_seconds + TOLD_WITHIN):
                await asyncio.gather(*(self._ended(life) for life in self._lives.values()))
        except TimeoutError:
            return False
        failed = [life for life in self._lives.values() if life.failed]
        await asyncio.gather(*(life.end_processes() for life in failed))
        return not failed
