"""`up`: the supervisor, in the foreground."""

import asyncio
import errno
import gc
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from supervisor.app import Supervisor
    from supervisor.settings import Settings


@unique
class OnShutdown(StrEnum):
    """What becomes of running agents at the end."""

    STOP = "stop"
    KEEP = "keep"


Directory = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The project (here, if left out).")
]
Host = Annotated[str | None, typer.Option("--listen-host", help="Address of the WebSocket.")]
Port = Annotated[int | None, typer.Option("--listen-port", help="Its port; 0 takes a free one.")]
Home = Annotated[Path | None, typer.Option("--codex-home", help="Codex's directory.")]
Codex = Annotated[Path | None, typer.Option("--codex-bin", help="The codex to start.")]
Shutdown = Annotated[
    OnShutdown | None, typer.Option("--on-shutdown", help="Stop agents at the end, or keep them.")
]
IdleExit = Annotated[
    float | None, typer.Option("--idle-exit", help="End after so many seconds without use.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


@with_options
def up(
    invocation: Invocation,
    directory: Directory = None,
    *,
    listen_host: Host = None,
    listen_port: Port = None,
    codex_home: Home = None,
    codex_bin: Codex = None,
    on_shutdown: Shutdown = None,
    idle_exit: IdleExit = None,
) -> None:
    """Run the supervisor for a directory. Ctrl-C, SIGTERM or closing the terminal end it."""
    import uvloop

    from supervisor import logs
    from supervisor.cli.calling import directory as real

    settings = invocation.settings(
        listen_host=listen_host,
        listen_port=listen_port,
        codex_home=codex_home,
        codex_bin=codex_bin,
        on_shutdown=on_shutdown and on_shutdown.value,
        idle_exit_seconds=idle_exit,
    )
    for_people = "log_format" not in settings.model_fields_set and sys.stderr.isatty()
    logs.configure(settings.log_level, "console" if for_people else settings.log_format)
    uvloop.run(_serve(invocation, settings, real(directory)))


async def _serve(invocation: Invocation, settings: "Settings", project: Path) -> None:
    from supervisor.app import running
    from supervisor.cli.calling import dial

    _tune()
    async with _told_to_end() as told, running(settings) as supervisor:
        async with dial(settings) as client:
            status = await client.call(None, "openProject", {"path": str(project)})
        assert isinstance(status, dict)
        _announce(invocation, supervisor, status)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_say_whether_ready(invocation, supervisor, status["project"]))
            await _until_end(settings, supervisor, told)
            watch.cancel()
        if not invocation.json:
            output.note(_parting(settings))


def _tune() -> None:
    """For a process that serves for long. See docs/performance.md for both figures."""
    # The store's thread waits so long for the interpreter while the loop is busy, several times
    # in a commit, and a person for it. Seconds; Python's own value is ten times that.
    sys.setswitchinterval(0.0005)
    # What is imported by now stays for ever: a full collection that looks through it takes 50 ms.
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def _told_to_end() -> AsyncIterator[asyncio.Event]:
    """Set by the first SIGINT or SIGTERM; the second one ends the process as it would any.

    Set by SIGHUP too, of which any number may come: a shell and the kernel both send it when a
    terminal's window is closed. Not under nohup, which has it ignored.
    """
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def tell() -> None:
        told.set()
        for each in signals:
            loop.remove_signal_handler(each)

    def hang_up() -> None:
        _leave_the_terminal()
        told.set()

    for each in signals:
        loop.add_signal_handler(each, tell)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    yield told


def _leave_the_terminal() -> None:
    """What is still said goes nowhere, where the terminal is gone: the end is not to fail by it."""
    for number in range(3):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, number)
                os.close(nowhere)


async def _until_end(settings: "Settings", supervisor: "Supervisor", told: asyncio.Event) -> None:
    """Until somebody says so, or nobody has needed it for `idle_exit_seconds`."""
    async with asyncio.TaskGroup() as group:
        ends: list[asyncio.Task[object]] = [group.create_task(told.wait())]
        if settings.idle_exit_seconds is not None:
            idle: asyncio.Task[None] = group.create_task(
                supervisor.idle(settings.idle_exit_seconds)
            )
            ends.append(idle)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


async def _say_whether_ready(
    invocation: Invocation, supervisor: "Supervisor", project: str
) -> None:
    """A codex that does not start is told here, and ends nothing: it can be mended meanwhile."""
    try:
        await supervisor.pool.get(project).ready(supervisor.settings.start_timeout_seconds)
    except SupervisorError as error:
        output.error(error, as_json=invocation.json)


def _announce(invocation: Invocation, supervisor: "Supervisor", status: dict[str, object]) -> None:
    settings, addresses = supervisor.settings, supervisor.addresses
    if invocation.json:
        output.line(
            {
                "project": status["project"],
                "path": status["path"],
                "socket": str(addresses.socket),
                "url": addresses.url,
                "host": addresses.host,
                "port": addresses.port,
                "tokenFile": str(addresses.token_file),
            }
        )
        return
    # A token in a file or a journal would be a token lost: only a terminal gets it.
    secret = sys.stdout.isatty()
    token = addresses.token_file.read_text().strip() if secret else f"in {addresses.token_file}"
    output.facts(
        [
            ("serving", status["path"]),
            ("project", status["project"]),
            ("URL", addresses.url),
            ("token", token),
        ]
    )
    directory = output.quoted(["-C", str(status["path"])])
    given = "".join(f"{part} " for part in [output.quoted(invocation.arguments())] if part)
    output.text("")
    output.text("In another terminal:")
    output.text(f'  codex-supervisor {given}run {directory} "what you want done"')
    output.text("Clients send the token as `Authorization: Bearer TOKEN`. Ctrl-C ends it.")
    if not (settings.codex_home / "auth.json").exists():
        output.note(
            f"note: there is no codex login in {settings.codex_home} (`codex login` makes one);"
            " a config.toml with a model provider of its own does without."
        )


def _parting(settings: "Settings") -> str:
    return "stopping the agents" if settings.on_shutdown == "stop" else "leaving the agents running"
