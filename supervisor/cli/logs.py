"""`logs`: what an app-server, or the supervisor in the background, wrote to its standard error.

Read from the files themselves, so that there is something to read when nobody answers any more.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supervisor.agents.spool import SpoolPaths, tail
from supervisor.cli import output
from supervisor.cli.calling import project_of
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import Project
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation

if TYPE_CHECKING:
    from supervisor.settings import Settings

READ_BYTES = 1024 * 1024
"""Of the end of a file, at most so much is shown."""
LOOK_SECONDS = 0.5
BACKGROUND_LOG = "background.log"

Lines = Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the end.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what comes.")]
OfSupervisor = Annotated[
    bool, typer.Option("--supervisor", help="Those of the supervisor in the background.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs")(with_options(logs))


def logs(
    inv: Invocation,
    project: Project = None,
    lines: Lines = 100,
    follow: Follow = False,
    supervisor: OfSupervisor = False,
) -> None:
    """What the project's app-server wrote to its standard error."""
    settings = inv.settings()
    if supervisor:
        path = settings.state_dir / BACKGROUND_LOG

        def newest() -> Path | None:
            return path if path.exists() else None
    else:
        newest = _of_agent(settings, project_of(project))
    found = newest()
    if found is None and not follow:
        raise SupervisorError(
            ErrorCode.PROJECT_UNKNOWN,
            "the supervisor keeps no log of its own here"
            if supervisor
            else "no app-server of this project has left a log",
            hint="A supervisor in the foreground logs to its terminal."
            if supervisor
            else "Name another project, or --state-dir.",
        )
    shown = _last(found, lines)
    if follow:
        for line in shown:
            _tell(inv, line)
        asyncio.run(_follow(inv, newest, found))
    elif inv.json:
        output.document({"file": str(found), "lines": shown})
    else:
        for line in shown:
            _tell(inv, line)


def _of_agent(settings: "Settings", project: str) -> Callable[[], Path | None]:
    """Finds the standard error of the newest generation."""
    directory = settings.state_dir / "projects" / project

    def newest() -> Path | None:
        try:
            numbers = [int(one.name) for one in directory.iterdir() if one.name.isdigit()]
        except OSError:
            return None
        found = (SpoolPaths(directory, Generation(n)).stderr for n in sorted(numbers, reverse=True))
        return next((path for path in found if path.exists()), None)

    return newest


def _last(path: Path | None, lines: int) -> list[str]:
    if path is None or lines == 0:
        return []
    return tail(path, READ_BYTES).decode(errors="replace").splitlines()[-lines:]


def _tell(inv: Invocation, line: str) -> None:
    if inv.json:
        output.line({"line": line})
    else:
        output.console().print(output.plain(line))


async def _follow(inv: Invocation, newest: Callable[[], Path | None], path: Path | None) -> None:
    """Show what is added, for ever; go over to the next generation's file when there is one."""
    clock = SystemClock()
    seen, begun = (path.stat().st_size if path is not None else 0), b""
    while True:
        await clock.sleep(LOOK_SECONDS)
        added, seen = _added(path, seen)
        *whole, begun = (begun + added).split(b"\n")
        for line in whole:
            _tell(inv, line.decode(errors="replace"))
        latest = newest()
        if latest != path and not added:
            path, seen, begun = latest, 0, b""


def _added(path: Path | None, seen: int) -> tuple[bytes, int]:
    """What came after the first `seen` bytes, and how many are seen then."""
    if path is None:
        return b"", seen
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < seen:
                # Emptied where no hole could be punched: all of it is new.
                seen = 0
            file.seek(seen)
            added = file.read(READ_BYTES)
    except OSError:
        return b"", seen
    return added, seen + len(added)
