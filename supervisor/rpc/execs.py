"""Methods about commands that a person runs in an agent's container.

They are for the command line: whoever calls has to run the line itself, on this machine and as a
user who may. So they are answered over the unix socket alone.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Command
from supervisor.rpc.methods import Done, Identifier, Method, Params, Path, ProjectCall, Result
from supervisor.rpc.paths import inside


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL in it")
    return text


Argument = Annotated[str, Field(max_length=131_072), AfterValidator(_without_nul)]


class BeginExec(Params):
    command: Annotated[list[Argument], Field(min_length=1, max_length=4096)]
    """The program and its arguments."""
    cwd: Path | None = None
    """Inside the project; relative to it, or absolute. The project itself if left out."""
    terminal: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")] | None = None
    """The kind of terminal it is to have, as TERM has it; none if left out."""


class EndExec(Params):
    exec_id: Identifier
    exit_code: Annotated[int, Field(ge=0, le=255)]
    """As a shell has it: 128 and the signal's number for one that was killed."""
    duration_ms: Annotated[int, Field(ge=0, le=2**53)]


class ExecBegun(Result, frozen=True, kw_only=True):
    exec_id: str
    """Under which the audit log has it."""
    argv: Sequence[str]
    """What is to be run now, by the caller."""
    environment: Mapping[str, str]
    """To be added to the caller's own."""


async def begin_exec(call: ProjectCall, params: BeginExec) -> ExecBegun:
    _check(call)
    paths = call.status.paths
    directory = pathlib.Path(inside("cwd", str(paths.host), params.cwd or "."))
    command = Command(
        argv=params.command, directory=paths.to_inside(directory), terminal=params.terminal
    )
    begun = await call.agent.begin_exec(call.principal, command)
    return ExecBegun(
        exec_id=begun.exec_id, argv=begun.line.argv, environment=begun.line.environment
    )


async def end_exec(call: ProjectCall, params: EndExec) -> Done:
    _check(call)
    await call.agent.end_exec(call.principal, params.exec_id, params.exit_code, params.duration_ms)
    return Done()


def _check(call: ProjectCall) -> None:
    if not call.principal.at_the_socket:
        raise SupervisorError(
            ErrorCode.FORBIDDEN,
            "commands are run in containers over the supervisor's unix socket only",
            hint="Use `codex-supervisor exec` on the machine of the supervisor.",
        )


METHODS = (
    Method(
        name="beginExec",
        doc="Record that a command is about to be run in the agent's container, and say how. "
        "Over the unix socket only.",
        params=BeginExec,
        result=ExecBegun,
        project=begin_exec,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="endExec",
        doc="Record how a command of `beginExec` ended. Over the unix socket only.",
        params=EndExec,
        result=Done,
        project=end_exec,
        acts=True,
    ),
)
