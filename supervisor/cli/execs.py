"""`exec`, `shell`: run something in an agent's container, on one's own terminal, audited.

The supervisor records what is about to run, and says how; this process runs it, and has recorded
how it ended. Were it killed in between, the audit log says that it began, and nothing else.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Annotated, Any, Self

import typer

from supervisor.cli import output
from supervisor.cli.calling import called, project_of
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import Project
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.settings import Settings, environment

NOT_RUN = 126
"""As shells have it: found, and could not be run."""
_SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash; fi; exec sh")

Of = Annotated[str, typer.Argument(metavar="PROJECT", help="Id or directory.", show_default=False)]
Words = Annotated[
    list[str], typer.Argument(metavar="CMD...", help="After --, as it is.", show_default=False)
]
Where = Annotated[
    str | None,
    typer.Option("--cwd", "-C", help="A directory of the project; else the project itself."),
]


class Ended(SystemExit):
    """With the command's own status, whatever it means among ours."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("exec")(with_options(exec_))
    app.command("shell")(with_options(shell))


def exec_(inv: Invocation, project: Of, command: Words, *, cwd: Where = None) -> None:
    """Run a command in a project's container, as the agent's user."""
    raise Ended(_run(inv, project_of(project), command, cwd))


def shell(inv: Invocation, project: Project = None, *, cwd: Where = None) -> None:
    """A shell in a project's container, as the agent's user."""
    raise Ended(_run(inv, project_of(project), _SHELL, cwd))


def _run(inv: Invocation, project: str, command: Sequence[str], cwd: str | None) -> int:
    settings = inv.settings()
    variables = environment()
    params: dict[str, object] = {"command": list(command)}
    if cwd is not None:
        params["cwd"] = cwd
    if os.isatty(0) and os.isatty(1):
        params["terminal"] = variables.get("TERM") or "dumb"
    begun: Any = called(settings, project, "beginExec", params)
    clock = SystemClock()
    began = clock.monotonic()
    status, problem = NOT_RUN, None
    try:
        status = _ran(begun["argv"], {**variables, **begun["environment"]})
    except OSError as error:
        problem = error
    elapsed = int((clock.monotonic() - began) * 1000)
    ended = {"execId": begun["execId"], "exitCode": status, "durationMs": elapsed}
    _record(settings, project, ended)
    if problem is not None:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"{begun['argv'][0]} cannot be run here: {problem}"
        )
    return status


def _record(settings: Settings, project: str, ended: dict[str, object]) -> None:
    """What has run has run: that the supervisor is away meanwhile is only said."""
    try:
        called(settings, project, "endExec", ended)
    except SupervisorError as error:
        output.note(f"the audit log does not have how it ended: {error.message}")


def _ran(argv: Sequence[str], variables: Mapping[str, str]) -> int:
    """The exit status of `argv` on our own stdio, as a shell has it."""
    sys.stdout.flush()
    with _Signals() as signals, subprocess.Popen(argv, env=variables) as child:
        signals.child = child
        status = child.wait()
    if signals.first is not None:
        # podman ends by it, in its own way, and tells 0.
        return 128 + signals.first
    return 128 - status if status < 0 else status


class _Signals:
    """They are the child's: of those a terminal sends it has its own, the others are handed on to
    it. We stay, to have recorded how it ended."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.first: int | None = None
        """The first that came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            # Not SIG_IGN for any, which the child would begin with.
            self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, _: FrameType | None) -> None:
        self.first = number if self.first is None else self.first
        if self.child is not None and number in (signal.SIGTERM, signal.SIGHUP):
            self.child.send_signal(number)
