"""podman's command line: every call bounded in time, every failure a `SupervisorError`.

Everything here blocks and belongs in a thread. What podman prints goes to files, never to pipes: a
child of podman's that outlives it would hold a pipe open, and whoever reads it would wait.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.runtimes.spec import MARKER_LABEL, container_name

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds one call may take. A loaded machine starts a container in three."""
_SAID: Final = 600
"""Characters of podman's words in an error."""

_STORAGE: Final = "storage"
"""State of one that podman had made room for and not yet noted: it has a name and no labels."""


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """One line of `podman ps --format json`."""

    id: str
    state: str
    names: list[str] | None = None
    pid: int = 0
    labels: dict[str, str] | None = None

    @property
    def marker(self) -> str:
        """The generation it belongs to; "" if it is not ours."""
        return (self.labels or {}).get(MARKER_LABEL, "")

    def belongs_to(self, marker: str) -> bool:
        """Whether a start of that generation made it, or half made it."""
        if self.state == _STORAGE:
            return container_name(marker) in (self.names or ())
        return self.marker == marker


class State(msgspec.Struct, frozen=True):
    """What `podman inspect` says of one."""

    status: str = msgspec.field(name="Status")
    exit_code: int = msgspec.field(name="ExitCode", default=0)
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    """Never true before podman 5."""

    @property
    def ended(self) -> bool:
        """Whether `exit_code` counts."""
        return self.status in ("stopped", "exited", "removing")


class Podman:
    """`environment` is all that podman gets of ours: PATH, HOME, CONTAINERS_CONF and the like."""

    def __init__(
        self, environment: Mapping[str, str], *, program: str = "podman", patience: float = PATIENCE
    ) -> None:
        self.program = program
        self._environment = environment
        self._patience = patience
        self._oci: str | None = None

    def launch(self, argv: Sequence[str], stdio: Sequence[int], files: Path, marker: str) -> int:
        """Run podman with `stdio` as its own, in the directory `files`; return its exit status.

        conmon keeps that directory as its own, and leaves `oom` there. Past its time podman is
        killed: sweep then, for what it had half made.
        """
        # The marker finds a podman that a dead supervisor left starting its container.
        environment = {**self._environment, MARKER_VARIABLE: marker}
        return self._run([self.program, *argv], stdio, environment, files)

    def ask(self, *argv: str) -> str:
        """What podman prints. `agent_start_failed` with its complaint if it fails."""
        status, said, complaint = self._asked([self.program, *argv])
        if status != 0:
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED, f"podman {argv[0]}: {last_words(complaint)}"
            )
        return said

    def containers(self) -> list[Container]:
        """Every container there is, anybody's, whatever its state; half-made ones without label."""
        argv = ("ps", "--all", "--external", "--no-trunc", "--format", "json")
        return _decoded(self.ask(*argv), list[Container])

    def state(self, container: str) -> State:
        """The truth about one container. `agent_start_failed` also if there is none."""
        return _decoded(self.ask("inspect", "--format", "{{json .State}}", container), State)

    def remove(self, container: str) -> None:
        """End it and take it away, whatever its state; by its full id. Harmless if it is gone."""
        try:
            self._remove(container)
        except SupervisorError:
            # Without conmon nobody writes the exit file podman waits for; it does so only once.
            self._remove(container)
        # Of a start or a conmon that was cut short, podman takes only its own record away: there
        # may be an OCI container still, with its cgroups, its first process and a conmon.
        self._delete_oci(container)

    def _remove(self, container: str) -> None:
        self.ask("rm", "--force", "--ignore", "--time", "0", "--volumes", container)

    def _delete_oci(self, container: str) -> None:
        if self._oci is None:
            self._oci = self.ask("info", "--format", "{{.Host.OCIRuntime.Path}}").strip()
        self._asked([self._oci, "delete", "--force", container])

    def _asked(self, argv: Sequence[str]) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdio = (subprocess.DEVNULL, out.fileno(), err.fileno())
            status = self._run(argv, stdio, self._environment, Path("/"))
            return status, _read(out), _read(err)

    def _run(
        self, argv: Sequence[str], stdio: Sequence[int], env: Mapping[str, str], cwd: Path
    ) -> int:
        try:
            child = subprocess.Popen(
                argv,
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                cwd=cwd,
                env=env,
                start_new_session=True,
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
        try:
            return child.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED,
                f"{Path(argv[0]).name} did not answer within {self._patience:g} s",
                hint="See whether `podman ps` answers; a lock or a full disk can hold it.",
            ) from None
        finally:
            _end(child)


def last_words(complaint: str) -> str:
    """The last line of what podman complained, without its prefix."""
    lines = [line for line in complaint.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ")[:_SAID] if lines else "it failed without a word"


def _unrunnable(program: str, error: Exception) -> SupervisorError:
    return SupervisorError(ErrorCode.AGENT_START_FAILED, f"{program} cannot be run: {error}")


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _decoded(said: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(said, type=kind)
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"podman answered what is not understood: {error}"
        ) from error
