"""The supervisor of this state directory, if one runs: is it well, is its port its own."""

import asyncio
import socket
from typing import Any

import msgspec

from supervisor.api.client import RpcClient
from supervisor.cli.calling import connected
from supervisor.cli.checks import Check, Finding, fail, ok, warn
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.settings import Settings

UNWELL = ("quarantined", "backing_off", "lost")
_LOCKS = "/proc/locks"


def running(settings: Settings) -> Finding:
    """Somebody answers on the socket, or nobody holds the lock."""
    from supervisor.app import VERSION

    host = _host(settings)
    if host is None:
        holder = _holder(settings)
        if holder is None:
            return ok("none runs in this state directory; `codex-supervisor up` starts one")
        return fail(
            f"process {holder} holds the lock of {settings.state_dir}, and nobody answers",
            f"It is starting, or hangs: wait a moment, then `kill {holder}`; agents go on.",
        )
    shown = f"{host['version']}, pid {host['pid']}, up {host['uptime']:.0f} s, {host['url']}"
    if host["version"] != VERSION:
        return warn(f"{shown}; this is {VERSION}", "Restart it: running turns go on meanwhile.")
    return ok(shown)


def projects(settings: Settings) -> Finding:
    """Each is ready, at rest, or on its way."""
    found = open_projects(settings)
    if found is None:
        return ok("not asked: no supervisor runs")
    waiting = [one["project"] for one in found if one["storeWaiting"]]
    if waiting:
        return fail(
            f"the database is away, and {', '.join(waiting)} wait",
            "See the database and the disk space; nothing is lost meanwhile.",
        )
    unwell = [f"{p['project']} {p['state']} ({p['reason']})" for p in found if _is_unwell(p)]
    if unwell:
        return warn(
            "; ".join(unwell),
            "`codex-supervisor logs PROJECT` shows why, `codex-supervisor restart` tries again.",
        )
    return ok(f"{len(found)} open, all well")


def open_projects(settings: Settings) -> list[dict[str, Any]] | None:
    """As `listProjects` has them; None if no supervisor answers."""
    return None if _host(settings) is None else connected(settings, _projects)


def port(settings: Settings) -> Finding:
    """The WebSocket's address is free, or our supervisor's."""
    host = _host(settings)
    if host is not None:
        return _own_port(settings, host)
    address = f"{settings.listen_host} port {settings.listen_port}"
    if settings.listen_port == 0:
        return ok("any free one is taken")
    try:
        found = socket.getaddrinfo(
            settings.listen_host, settings.listen_port, type=socket.SOCK_STREAM
        )
        family, kind, proto, _, where = found[0]
        with socket.socket(family, kind, proto) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
            bound.listen(1)
    except OSError as error:
        return fail(
            f"{address} cannot be had: {error.strerror or error}",
            "Stop what listens there, or set listen_port to another one, or to 0.",
        )
    return ok(f"{address} is free")


def _own_port(settings: Settings, host: dict[str, Any]) -> Finding:
    """A call through the WebSocket, with the token, reaches the same supervisor."""
    from supervisor.api.dialing import connect_websocket

    async def same() -> bool:
        token = settings.token_file.read_text().strip()
        async with connect_websocket(host["url"], token) as client:
            answer: Any = await client.call(None, "hostStatus", {})
        return bool(answer["pid"] == host["pid"])

    try:
        is_same = asyncio.run(same())
    except (SupervisorError, OSError) as error:
        return fail(
            f"{host['url']} does not let us in: {error}",
            "The token or the port changed since it started: restart the supervisor.",
        )
    if not is_same:
        return fail(f"another supervisor answers at {host['url']}", "Restart this one.")
    return ok(f"{host['url']} answers")


async def _projects(client: RpcClient) -> list[dict[str, Any]]:
    answer: Any = await client.call(None, "listProjects", {})
    found: list[dict[str, Any]] = answer["projects"]
    return found


def _is_unwell(project: dict[str, Any]) -> bool:
    return project["state"] in UNWELL


def _host(settings: Settings) -> dict[str, Any] | None:
    """What the supervisor says of itself; None if nobody answers."""

    async def ask(client: RpcClient) -> Any:
        return await client.call(None, "hostStatus", {})

    try:
        host: dict[str, Any] = connected(settings, ask)
    except SupervisorError as error:
        if error.code not in (ErrorCode.SUPERVISOR_UNREACHABLE, ErrorCode.CONNECTION_LOST):
            raise
        return None
    return host


def _holder(settings: Settings) -> int | None:
    """The process that holds the lock, seen without asking for it: asking could take it."""
    from supervisor.agents.state_dir import Owner

    lock = settings.state_dir / "lock"
    try:
        owner = msgspec.json.decode(lock.read_bytes(), type=Owner)
        inode = str(lock.stat().st_ino)
        with open(_LOCKS) as locks:  # noqa: PTH123  # no path of ours
            held = [line.split() for line in locks]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    for fields in held:
        if "FLOCK" in fields and any(part.rpartition(":")[2] == inode for part in fields):
            return owner.pid
    return None


CHECKS: dict[str, Check] = {"supervisor": running, "projects": projects, "port": port}
