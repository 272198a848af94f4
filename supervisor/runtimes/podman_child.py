"""A podman of our own as a child process: how one is started, ended, and what it complained of.

Everything here blocks and belongs in a thread.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from supervisor.errors import ErrorCode, SupervisorError

PATIENCE: Final = 30.0
"""Seconds one call may take. A loaded machine starts a container in three."""
_SAID: Final = 600
"""Characters of podman's words in an error."""


def spawn(
    argv: Sequence[str],
    stdio: Sequence[int],
    environment: Mapping[str, str],
    cwd: Path,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own. `agent_start_failed` if it cannot be run."""
    try:
        return subprocess.Popen(
            argv,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            cwd=cwd,
            env=environment,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except FileNotFoundError as error:
        # Popen names what was missing: the directory, or the program.
        if error.filename == str(cwd):
            raise _unrunnable(argv[0], error) from error
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            f"there is no {argv[0]} to run",
            hint="Install podman, or set another runtime.",
            retryable=False,
        ) from error
    except (OSError, ValueError) as error:
        raise _unrunnable(argv[0], error) from error


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kill it, unless it has ended, with all of its session that is left."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def last_words(complaint: str) -> str:
    """The last line of what podman complained, without its prefix."""
    lines = [line for line in complaint.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ")[:_SAID] if lines else "it failed without a word"


def read(file: IO[bytes]) -> str:
    """All that was written to `file`."""
    file.seek(0)
    return file.read().decode(errors="replace")


def no_answer(program: str, patience: float) -> SupervisorError:
    """It hangs."""
    return SupervisorError(
        ErrorCode.AGENT_START_FAILED,
        f"{Path(program).name} did not answer within {patience:g} s",
        hint="See whether `podman ps` answers; a lock or a full disk can hold it.",
    )


def _unrunnable(program: str, error: Exception) -> SupervisorError:
    return SupervisorError(ErrorCode.AGENT_START_FAILED, f"{program} cannot be run: {error}")
