"""`ps`, `status`, `stop`, `restart`, `trust`, `untrust`: projects and their agents."""

import os
import select
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.api.client import RpcClient
from supervisor.cli import output
from supervisor.cli.calling import called, connected, directory, project_of
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import Project
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.places import project_id

Directory = Annotated[
    Path | None, typer.Argument(help="The working directory if left out.", show_default=False)
]

OfSupervisor = Annotated[
    bool,
    typer.Option("--supervisor", help="Stop the supervisor instead; projects come back with it."),
]

HINTS = {
    "quarantined": "Mend the reason, then `codex-supervisor restart`; "
    "`codex-supervisor logs` shows what the app-server said.",
    "backing_off": "It starts again by itself; `codex-supervisor logs` shows what it said.",
    "lost": "It starts again by itself.",
    "stopped": "`codex-supervisor restart` starts it.",
}
"""What to do, by state. A stopped project that is wanted is about to start: see `hint_of`."""

_COLUMNS = ("project", "path", "state", "generation", "pid", "turns", "approvals", "reason")
_FIELDS = "project path state generation pid activeTurns waitingApprovals reason".split()
_SHOWN = (
    ("project", "project"),
    ("path", "path"),
    ("account", "account"),
    ("state", "state"),
    ("desired", "desired"),
    ("reason", "reason"),
    ("codex", "codexVersion"),
    ("runtime", "runtime"),
    ("generation", "generation"),
    ("pid", "pid"),
    ("turns active", "activeTurns"),
    ("approvals waiting", "waitingApprovals"),
    ("subscribers", "subscribers"),
    ("unasked exits lately", "restarts"),
    ("unread output (bytes)", "spoolBacklogBytes"),
    ("last event", "cursor"),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("ps", ps),
        ("status", status),
        ("stop", stop),
        ("restart", restart),
        ("trust", trust),
        ("untrust", untrust),
    ):
        app.command(name)(with_options(command))


def ps(inv: Invocation) -> None:
    """All projects of this supervisor."""
    found = called(inv.settings(), None, "listProjects")
    if inv.json:
        output.document(found)
        return
    rows = [[one[field] for field in _FIELDS] for one in found["projects"]]
    if rows:
        output.table(_COLUMNS, rows)
    else:
        output.note("no project is open; `codex-supervisor up` opens the working directory")


def status(inv: Invocation, project: Project = None) -> None:
    """One project: what its agent does, and what to do if it does not."""
    _about(inv, project, "projectStatus")


def stop(inv: Invocation, project: Project = None, *, supervisor: OfSupervisor = False) -> None:
    """Stop a project's app-server; it stays stopped until it is asked for again."""
    if supervisor:
        _end_supervisor(inv)
    else:
        _about(inv, project, "stopProject")


def restart(inv: Invocation, project: Project = None) -> None:
    """Stop a project's app-server and start it again; releases a quarantine."""
    _about(inv, project, "restartProject")


def trust(inv: Invocation, directory: Directory = None) -> None:
    """Vouch for a directory's own Codex configuration: it takes effect from now on."""
    _vouch(inv, directory, trusted=True)


def untrust(inv: Invocation, directory: Directory = None) -> None:
    """Stop vouching for a directory's own Codex configuration."""
    _vouch(inv, directory, trusted=False)


def hint_of(shown: dict[str, Any]) -> str | None:
    """What a person can do about the state, if anything."""
    state = str(shown["state"])
    if shown["storeWaiting"]:
        return "`codex-supervisor doctor` looks at the database; nothing is lost meanwhile."
    if state == "stopped" and shown["desired"] == "running":
        return None
    return HINTS.get(state)


def _about(inv: Invocation, given: str | None, method: str) -> None:
    settings, project = inv.settings(), project_of(given)

    async def talk(client: RpcClient) -> tuple[Any, Any]:
        shown = await client.call(project, method, {})
        return shown, await client.call(None, "hostStatus", {})

    shown, host = connected(settings, talk)
    if inv.json:
        output.document(shown)
    else:
        _show(shown, host)


def _end_supervisor(inv: Invocation) -> None:
    """SIGTERM to whoever answers on our socket, and wait until it is gone."""
    pid = called(inv.settings(), None, "hostStatus")["pid"]
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(held, signal.SIGTERM)
        ended = select.poll()
        ended.register(held, select.POLLIN)
        ended.poll()
    except ProcessLookupError:
        return
    finally:
        os.close(held)
    if inv.json:
        output.document({"pid": pid})
    else:
        output.note(f"the supervisor, pid {pid}, has ended")


def _vouch(inv: Invocation, given: Path | None, *, trusted: bool) -> None:
    settings, path = inv.settings(), directory(given)

    async def talk(client: RpcClient) -> Any:
        project = project_id(path)
        params: dict[str, object] = {"trusted": trusted}
        try:
            return await client.call(project, "trustProject", params)
        except SupervisorError as error:
            if error.code is not ErrorCode.PROJECT_UNKNOWN:
                raise
        await client.call(None, "openProject", {"path": str(path)})
        return await client.call(project, "trustProject", params)

    shown = connected(settings, talk)
    if inv.json:
        output.document(shown)
    else:
        said = "trusted: its own Codex configuration takes effect" if trusted else "not trusted"
        output.note(f"{shown['path']} is {said}")


def _around(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands around a contained app-server, and what of it does not hold."""
    held, wall = shown["confinement"], shown["innerWall"]
    if held is None:
        return []
    facts = [("container", str(held["container"])[:12])]
    facts.append(("limits", "hold" if held["limitsHold"] else "do not hold"))
    facts.append(("its stdio", "out of reach" if held["stdioOutOfReach"] else "within reach"))
    facts += [("doubt", str(doubt)) for doubt in held["doubts"]]
    if wall is not None:
        facts.append(("inner wall", f"{wall['state']} {wall['reason']}".strip()))
    return facts


def _show(shown: dict[str, Any], host: dict[str, Any]) -> None:
    facts = [(name, shown[field]) for name, field in _SHOWN]
    facts.insert(3, ("trusted", "yes" if shown["trusted"] else "no"))
    facts += _around(shown)
    facts.append(("supervisor", f"{host['version']}, pid {host['pid']}, {host['url']}"))
    output.facts(facts)
    hint = hint_of(shown)
    if hint is not None:
        output.note(f"hint: {hint}")
