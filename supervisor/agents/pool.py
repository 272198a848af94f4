"""All agents of this supervisor, by project. Implements `ports.agent.Agents`."""

import asyncio

import msgspec

from supervisor.agents.agent import Agent
from supervisor.agents.ledger import Change, own_event
from supervisor.agents.places import check_place
from supervisor.agents.shared import Shared
from supervisor.audit import record
from supervisor.audit.record import Draft
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.logs import get_logger
from supervisor.policy.access import Principal
from supervisor.policy.places import project_id
from supervisor.ports.store import ProjectRow

log = get_logger()
TOLD_WITHIN = 5.0
"""Seconds for the ends of app-servers to be committed, once they must have ended."""
CATCH_UP_SECONDS = 30.0
"""A supervisor serves after that, though some project still reads what it missed."""


class Pool:
    """Enter it before use: agents live as long as it is entered."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._agents: dict[ProjectId, Agent] = {}
        self._lives: dict[ProjectId, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Pool":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for life in self._lives.values():
            life.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def adopt_all(self) -> None:
        """Take over every project of the store: running app-servers go on, dead ones are told.

        A project whose app-server is not there starts when somebody opens it. What was spooled
        meanwhile has been read when this returns, so that clients who come back find their cursors
        valid and their approvals listed; a project that takes longer is waited for no longer.
        """
        rows = await self._shared.store.projects()
        agents = [self._live(row) for row in rows]
        await asyncio.gather(*(self._taken_over(agent) for agent in agents))

    async def _taken_over(self, agent: Agent) -> None:
        try:
            await agent.opened()
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await agent.caught_up()
        except TimeoutError:
            log.warning("project_not_caught_up", project=agent.project)
        except Exception as e:  # noqa: BLE001  # one project's failure is no other's
            log.error("project_not_opened", project=agent.project, error=str(e))
            self._agents.pop(agent.project, None)

    def _live(self, row: ProjectRow) -> Agent:
        agent = self._agents[row.project] = Agent(self._shared, row)
        self._lives[row.project] = self._tasks.create_task(self._contained(agent))
        return agent

    async def _contained(self, agent: Agent) -> None:
        """One project's failure is no other's."""
        try:
            await agent.run()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("agent_failed", project=agent.project)
            self._agents.pop(agent.project, None)

    # -- ports.agent.Agents

    async def open(self, principal: Principal, path: str) -> Agent:
        settings = self._shared.settings
        place = check_place(path, settings.project_roots, settings.state_dir)
        name = project_id(place)
        async with self._opening:
            agent = self._agents.get(name)
            if agent is None:
                agent = await self._made(principal, name, str(place))
            elif agent.row.account != principal.account:
                raise SupervisorError(ErrorCode.FORBIDDEN, "another account has this project")
        if agent.row.desired != "running":
            await self._want(agent, "running")
        return agent

    async def _made(self, principal: Principal, name: ProjectId, path: str) -> Agent:
        known = await self._shared.store.project(name)
        if known is not None and known.account != principal.account:
            raise SupervisorError(ErrorCode.FORBIDDEN, "another account has this project")
        row = known or ProjectRow(
            project=name,
            path=path,
            account=principal.account,
            trusted=False,
            desired="running",
            created_at=self._shared.clock.now().timestamp(),
        )
        row = msgspec.structs.replace(row, desired="running")
        await self._shared.store.put_project(row)
        agent = self._live(row)
        try:
            await agent.opened()
        except Exception:
            self._agents.pop(name, None)
            raise
        await self._tell(agent, record.project_opened(principal, path), "projectOpened")
        return agent

    def get(self, project: str) -> Agent:
        agent = self._agents.get(ProjectId(project))
        if agent is None:
            raise SupervisorError(ErrorCode.PROJECT_UNKNOWN, "there is no such project")
        return agent

    def all(self) -> list[Agent]:
        return [self._agents[name] for name in sorted(self._agents)]

    async def stop(self, principal: Principal, project: str) -> None:
        agent = self.get(project)
        await self._tell(agent, record.project_stopped(principal), "projectStopped")
        await self._want(agent, "stopped")
        await agent.at_rest()

    async def restart(self, principal: Principal, project: str) -> None:
        agent = self.get(project)
        await self._tell(agent, record.project_restarted(principal), "projectRestarted")
        await self._want(agent, "running", restart=True)

    async def trust(self, principal: Principal, project: str, trusted: bool) -> None:
        agent = self.get(project)
        draft = record.project_trusted(principal, agent.row.path, trusted=trusted)
        await self._tell(agent, draft, "projectTrusted" if trusted else "projectUntrusted")
        row = msgspec.structs.replace(agent.row, trusted=trusted)
        await self._shared.store.put_project(row)
        agent.want(row, restart=True)

    async def _want(self, agent: Agent, desired: str, *, restart: bool = False) -> None:
        row = msgspec.structs.replace(agent.row, desired=desired)
        if row != agent.row:
            await self._shared.store.put_project(row)
        agent.want(row, restart=restart)

    async def _tell(self, agent: Agent, draft: Draft, event: str) -> None:
        params: dict[str, object] = {"account": draft.account, "principal": draft.principal}
        change = Change(events=[own_event(f"supervisor/{event}", params)], drafts=[draft])
        await agent.record(change)

    async def stop_all(self) -> bool:
        """End every app-server, in order, without changing what is desired; whether all is told.

        False where the store is away for too long: the app-servers have ended, and the successor
        reads their spools to the end.
        """
        agents = self.all()
        for agent in agents:
            agent.want(msgspec.structs.replace(agent.row, desired="stopped"))
        try:
            # Twice the grace: to interrupt what runs, and to end.
            async with asyncio.timeout(2 * self._shared.settings.stop_grace_seconds + TOLD_WITHIN):
                await asyncio.gather(*(agent.at_rest() for agent in agents))
        except TimeoutError:
            return False
        return True
