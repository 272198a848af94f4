"""`codex-supervisor`: what is typed, to a command; what goes wrong, to an exit status.

Exit statuses are those of sysexits(3), as `supervisor.errors` gives them to each code; 64 for a
call that was not understood, 130 after Ctrl-C, 141 when nobody reads the output any more. Commands
import what they need when they are called: `--help` has to be there at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from supervisor.cli import (
    about,
    approvals,
    audit,
    demo,
    doctor,
    events,
    execs,
    logs,
    output,
    projects,
    proxy,
    run,
    threads,
    up,
)
from supervisor.cli.invocation import CURRENT, Config, Invocation, Level, Output, StateDir
from supervisor.errors import ErrorCode, SupervisorError

CTRL_C = 130
BROKEN_PIPE = 141
_NOT_UNDERSTOOD = 2
"""What the command line's parser ends with, for which sysexits has a number of its own."""
_NOUNS = (
    *(up, run, events, approvals, projects, threads, audit, logs, execs, doctor, demo, proxy),
    about,
)

app = typer.Typer(
    name="codex-supervisor",
    help="Runs Codex on your directories, and loses no turn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _shared(
    ctx: typer.Context,
    config: Config = None,
    state_dir: StateDir = None,
    output: Output = None,
    log_level: Level = None,
) -> None:
    ctx.obj = CURRENT[0] = Invocation(config, state_dir, output, log_level)


for noun in _NOUNS:
    noun.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one call. The exit status."""
    _open_what_is_closed()
    CURRENT[0] = Invocation()
    try:
        app(arguments, prog_name="codex-supervisor")
        sys.stdout.flush()
    except SystemExit as end:
        return _status(end)
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:
        return CTRL_C
    except Exception as error:  # noqa: BLE001 - the last one who could say anything
        return _failed(error)
    return 0


def _open_what_is_closed() -> None:
    """Called with a standard stream closed (`<&-`), it gets one that is empty. Else Python has None
    in its place, and the next file that is opened gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        # The lowest free number: `number` itself, unless something has been opened there since.
        fd = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(fd, fd == number)
        mode = "w" if number else "r"
        setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", errors="backslashreplace"))


def _status(end: SystemExit) -> int:
    """The status of an end that the command line's parser, or a command, asked for."""
    # The parser turns a closed pipe into an end of its own, of which it says nothing more.
    if isinstance(end.__context__, BrokenPipeError):
        return _unread()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    if end.code == _NOT_UNDERSTOOD and not isinstance(end, execs.Ended):
        return os.EX_USAGE
    return end.code if isinstance(end.code, int) else os.EX_OK


def _failed(error: BaseException) -> int:
    """Say what went wrong. A group of one error, as task groups make them, is that error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if _is_of_pipes(error):
        return _unread()
    if not isinstance(error, SupervisorError):
        traceback.print_exception(error)
        error = SupervisorError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
    output.error(error, as_json=CURRENT[0].json)
    return error.exit_status


def _is_of_pipes(error: BaseException) -> bool:
    """Tasks that write side by side each find the pipe closed."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_pipes, error.exceptions))
    return isinstance(error, BrokenPipeError)


def _unread() -> int:
    """Nobody reads any more: what is still buffered must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
