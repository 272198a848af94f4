"""Methods about this supervisor."""

from typing import Any

from supervisor.rpc.methods import HostCall, Method, NoParams, Result


class HostStatus(Result, frozen=True, kw_only=True):
    version: str
    pid: int
    uptime: float
    """Seconds."""
    projects: int
    """The caller's."""
    url: str
    """Of the WebSocket."""


class Described(Result, frozen=True, kw_only=True):
    """One method. The schemas are JSON Schema."""

    name: str
    scope: str
    doc: str
    streaming: bool
    acts: bool
    params: dict[str, Any]
    result: dict[str, Any]


class Description(Result, frozen=True, kw_only=True):
    methods: list[Described]
    version: str


async def host_status(call: HostCall, params: NoParams) -> HostStatus:  # noqa: ARG001
    host = call.host
    account = call.principal.account
    return HostStatus(
        version=host.version,
        pid=host.pid,
        uptime=host.clock.monotonic() - host.started,
        projects=sum(agent.account == account for agent in call.agents.all()),
        url=host.url(),
    )


METHODS = (
    Method(
        name="hostStatus",
        doc="This supervisor: version, process id, seconds since its start, where it listens.",
        params=NoParams,
        result=HostStatus,
        host=host_status,
    ),
)
