"""Methods about projects and their agents."""

from typing import Annotated

import msgspec
from pydantic import Field

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.agent import ProjectStatus
from supervisor.rpc.methods import (
    HostCall,
    Method,
    NoParams,
    Params,
    Path,
    ProjectCall,
    Result,
)


class OpenProject(Params):
    path: Path
    """Absolute path of the directory."""


class TrustProject(Params):
    trusted: bool
    """Whether the directory's own Codex config may take effect."""


class AgentLogs(Params):
    bytes: Annotated[int, Field(ge=1, le=1024 * 1024)] = 16 * 1024
    """How much of the end to show."""


class Projects(Result, frozen=True, kw_only=True):
    projects: list[ProjectStatus]


class Pinged(Result, frozen=True, kw_only=True):
    loaded_threads: int
    """Threads the app-server has in memory."""


class Logs(Result, frozen=True, kw_only=True):
    text: str


class _Loaded(msgspec.Struct, frozen=True):
    data: list[str]


_LOADED = msgspec.json.Decoder(_Loaded)


async def open_project(call: HostCall, params: OpenProject) -> ProjectStatus:
    agent = await call.agents.open(call.principal, params.path)
    status = agent.status()
    if status.account != call.principal.account:
        raise SupervisorError(
            ErrorCode.PROJECT_PATH_REFUSED, "params.path: this directory cannot be opened"
        )
    return status


async def list_projects(call: HostCall, params: NoParams) -> Projects:  # noqa: ARG001
    mine = (agent for agent in call.agents.all() if agent.account == call.principal.account)
    return Projects(projects=[agent.status() for agent in mine])


async def project_status(call: ProjectCall, params: NoParams) -> ProjectStatus:  # noqa: ARG001
    return call.status


async def stop_project(call: ProjectCall, params: NoParams) -> ProjectStatus:  # noqa: ARG001
    await call.agents.stop(call.principal, call.agent.project)
    return call.agent.status()


async def restart_project(call: ProjectCall, params: NoParams) -> ProjectStatus:  # noqa: ARG001
    await call.agents.restart(call.principal, call.agent.project)
    return call.agent.status()


async def trust_project(call: ProjectCall, params: TrustProject) -> ProjectStatus:
    await call.agents.trust(call.principal, call.agent.project, params.trusted)
    return call.agent.status()


async def ping_project(call: ProjectCall, params: NoParams) -> Pinged:  # noqa: ARG001
    answer = await call.agent.ask("thread/loaded/list", {})
    try:
        loaded = _LOADED.decode(answer).data
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.CODEX_REFUSED, f"codex answered with no list of threads: {error}"
        ) from None
    return Pinged(loaded_threads=len(loaded))


async def agent_logs(call: ProjectCall, params: AgentLogs) -> Logs:
    return Logs(text=await call.agent.log_tail(params.bytes))


METHODS = (
    Method(
        name="openProject",
        doc="Open a directory as a project: make its agent, and start it if need be. "
        "Answers at once; the state says when it is ready.",
        params=OpenProject,
        result=ProjectStatus,
        host=open_project,
        acts=True,
    ),
    Method(
        name="listProjects",
        doc="The caller's projects, with their state.",
        params=NoParams,
        result=Projects,
        host=list_projects,
    ),
    Method(
        name="projectStatus",
        doc="The project's state.",
        params=NoParams,
        result=ProjectStatus,
        project=project_status,
    ),
    Method(
        name="stopProject",
        doc="Drain and stop the app-server. It stays stopped until asked for again.",
        params=NoParams,
        result=ProjectStatus,
        project=stop_project,
        acts=True,
    ),
    Method(
        name="restartProject",
        doc="Stop the app-server and start it again; releases a quarantine.",
        params=NoParams,
        result=ProjectStatus,
        project=restart_project,
        acts=True,
    ),
    Method(
        name="trustProject",
        doc="Vouch, or stop vouching, for the directory's own Codex config; "
        "restarts a running agent.",
        params=TrustProject,
        result=ProjectStatus,
        project=trust_project,
        acts=True,
    ),
    Method(
        name="pingProject",
        doc="A real round trip to the app-server.",
        params=NoParams,
        result=Pinged,
        project=ping_project,
        needs_agent=True,
    ),
    Method(
        name="agentLogs",
        doc="The end of the app-server's standard error.",
        params=AgentLogs,
        result=Logs,
        project=agent_logs,
    ),
)
