"""What stands around a container's app-server, judged by what is there and not by what was asked.

Podman accepts limits that nothing enforces: rootless with cgroup version 1 it warns and goes on,
and with version 2 only what systemd delegated is in force. And D5 holds only while no process of
the agent's user can read the programs that hold the stdio: only then are those not dumpable.
`confinement` and `expected` are pure; `examined` looks.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Confinement
from supervisor.runtimes.cgroups import Cgroup, InForce
from supervisor.runtimes.processes import PROC
from supervisor.runtimes.spec import CODEX_BINARY, Limits

INIT_INSIDE: Final = Path("/run/podman-init")
"""Where podman puts the init."""
_NEEDED: Final = ("memory", "pids", "cpu")
_IGNORED: Final = "podman without root ignores all limits where cgroups are of version 1"
_ROUNDING: Final = 1.01
"""Memory is limited in pages, processor time in microseconds."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it is inside; `uid` is the host's. `mode` None: it is not there."""

    path: Path
    uid: int = 0
    mode: int | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one running container."""

    container: str
    rootless: bool
    cgroups: str
    """`v1` or `v2`, as podman says."""
    asked: Limits | None
    """None: nobody remembers."""
    in_force: InForce | None
    """None: it has no cgroup of its own."""
    machine_swaps: bool
    agent_uid: int
    """The host's."""
    programs: Sequence[Program]
    """Of the processes that hold the stdio: the init, and the app-server."""


def confinement(facts: Facts) -> Confinement:
    """What holds, and why not what does not."""
    limits, wall = _limits_doubts(facts), _stdio_doubts(facts)
    return Confinement(
        container=facts.container,
        limits_hold=not limits,
        stdio_out_of_reach=not wall,
        doubts=(*limits, *wall),
    )


def unknown(container: str, why: str = "it ended before it could be looked at") -> Confinement:
    """Of one that nobody could look at."""
    return Confinement(
        container=container,
        limits_hold=False,
        stdio_out_of_reach=False,
        doubts=(why,),
    )


def require_limits(found: Confinement) -> None:
    """`limits_not_held` unless they hold."""
    if not found.limits_hold:
        raise SupervisorError(ErrorCode.LIMITS_NOT_HELD, "; ".join(found.doubts))


def expected(*, rootless: bool, cgroups: str, controllers: Sequence[str]) -> tuple[str, ...]:
    """Why limits will not hold, before any container is started; empty if they should."""
    if rootless and cgroups == "v1":
        return (_IGNORED,)
    missing = [name for name in _NEEDED if name not in controllers]
    return (_not_delegated(missing),) if missing else ()


def _limits_doubts(facts: Facts) -> list[str]:
    if facts.rootless and facts.cgroups == "v1":
        return [_IGNORED]
    found = facts.in_force
    if found is None:
        return ["the container has no cgroup of its own: none of its limits is in force"]
    asked = facts.asked
    pairs: list[tuple[str, float | None, float | None]] = [
        ("memory", found.memory_bytes, asked.memory_bytes if asked else None),
        ("pids", found.pids, asked.pids if asked else None),
        ("cpu", found.cpus, asked.cpus if asked else None),
    ]
    missing = [name for name, limit, _ in pairs if limit is None]
    doubts = [_not_delegated(missing)] if missing else []
    doubts += [
        f"the limit on {name} is {limit:g}, and {wanted:g} was asked for"
        for name, limit, wanted in pairs
        if limit is not None and wanted is not None and limit > wanted * _ROUNDING
    ]
    if facts.machine_swaps and found.swap_bytes != 0:
        doubts.append("what memory the container may not have it can have as swap")
    return doubts


def _not_delegated(missing: Sequence[str]) -> str:
    names = ", ".join(missing)
    return f"no limit is in force on {names}: podman has not been given those cgroup controllers"


def _stdio_doubts(facts: Facts) -> list[str]:
    doubts = []
    for program in facts.programs:
        if program.mode is None:
            doubts.append(f"{program.path} cannot be looked at: it may be readable to the agent")
        elif program.uid == facts.agent_uid:
            doubts.append(f"{program.path} belongs to the agent's own user")
        elif program.mode & (stat.S_IRGRP | stat.S_IROTH):
            doubts.append(f"{program.path} can be read by the agent")
    return doubts


def examined(
    container: str,
    pid: int,
    cgroup: Cgroup | None,
    *,
    rootless: bool,
    cgroups: str,
    asked: Limits | None,
    app_server: Path = CODEX_BINARY,
    proc_root: Path = PROC,
) -> Facts:
    """Look at the container of init `pid`. Raises OSError once that has ended."""
    inside = proc_root / str(pid) / "root"
    return Facts(
        container=container,
        rootless=rootless,
        cgroups=cgroups,
        asked=asked,
        in_force=cgroup.in_force() if cgroup else None,
        machine_swaps=len((proc_root / "swaps").read_text().splitlines()) > 1,
        agent_uid=_uid_of(proc_root / str(pid)),
        programs=[_program(inside, INIT_INSIDE), _program(inside, app_server)],
    )


def _uid_of(process: Path) -> int:
    for line in (process / "status").read_text().splitlines():
        name, _, said = line.partition(":")
        if name == "Uid":
            return int(said.split()[0])
    raise ProcessLookupError(process)


def _program(inside: Path, path: Path) -> Program:
    try:
        status = (inside / str(path).lstrip("/")).lstat()
    except OSError:
        return Program(path=path)
    return Program(path=path, uid=status.st_uid, mode=stat.S_IMODE(status.st_mode))
