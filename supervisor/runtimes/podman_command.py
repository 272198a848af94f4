"""podman, by its command line and, where that is as good, by its API; `podman_api` says which.

Every call is bounded in time, every failure a `SupervisorError`. Everything here blocks and belongs
in a thread. What podman's command line prints goes to files, never to pipes: a child of podman's
that outlives it would hold a pipe open, and whoever reads it would wait.
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE, Command, ExecLine
from supervisor.runtimes.podman_api import PodmanApi
from supervisor.runtimes.podman_child import PATIENCE, end, last_words, no_answer, read, spawn
from supervisor.runtimes.podman_records import Container, Event, Image, State, decoded
from supervisor.runtimes.podman_service import PodmanService

_ASKED_FOR: Final = (
    '{"oci":{{json .Host.OCIRuntime.Path}},"rootless":{{json .Host.Security.Rootless}},'
    '"cgroups":{{json .Host.CgroupsVersion}},"version":{{json .Version.Version}},'
    '"controllers":{{json .Host.CgroupControllers}},'
    '"seccomp":{{json .Host.Security.SECCOMPProfilePath}}}'
)
_WHERE_PODMAN_LOOKS: Final = ("CONTAINERS_", "XDG_")
"""How variables begin that say which configuration and which containers are podman's."""


class Sort(msgspec.Struct, frozen=True):
    """Which podman it is."""

    oci: str
    """The OCI runtime's path."""
    rootless: bool
    cgroups: str
    """`v1` or `v2`; v1 is also what a hybrid says."""
    version: str
    controllers: list[str] | None
    """Of cgroups, that are podman's to use."""
    seccomp: str
    """The profile containers get; "" without any filter."""


class Podman:
    """`environment` is all that podman gets of ours: PATH, HOME, CONTAINERS_CONF and the like.

    `directory` is ours alone, for the API's service; without one there is only `launch` and `ask`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        program: str = "podman",
        patience: float = PATIENCE,
        directory: Path | None = None,
    ) -> None:
        self.program = program
        self._environment = environment
        self._patience = patience
        self._sort: Sort | None = None
        self._service: PodmanApi | None = None
        if directory is not None:
            self._service = PodmanApi(
                PodmanService(environment, directory, program=program, patience=patience)
            )

    @property
    def _api(self) -> PodmanApi:
        if self._service is None:
            raise ValueError("podman's service has been given no directory")
        return self._service

    # -- by the command line

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

    def sort(self) -> Sort:
        """Which podman it is; asked once."""
        if self._sort is None:
            self._sort = decoded(self.ask("info", "--format", _ASKED_FOR), Sort)
        return self._sort

    def exec_line(self, container: str, command: Command) -> ExecLine:
        """What runs `command` in the container, on the terminal of whoever runs the line."""
        terminal = ["--tty", "--env", f"TERM={command.terminal}"] if command.terminal else []
        return ExecLine(
            argv=[
                *(self.program, "exec", "--interactive", *terminal),
                *("--workdir", str(command.directory), container, *command.argv),
            ],
            environment={
                name: value
                for name, value in self._environment.items()
                if name.startswith(_WHERE_PODMAN_LOOKS)
            },
        )

    # -- by the API

    def containers(self, *labels: str) -> list[Container]:
        """As `PodmanApi.containers`."""
        return self._api.containers(*labels)

    def state(self, container: str) -> State:
        """The truth about one container. `agent_start_failed` also if there is none."""
        return self._api.state(container)

    def image(self, name: str) -> Image | None:
        """None if it is not there."""
        return self._api.image(name)

    def events(self, since: str, *labels: str) -> list[Event]:
        """As `PodmanApi.events`."""
        return self._api.events(since, *labels)

    def remove(self, container: str) -> None:
        """End it and take it away, whatever its state; by its full id. Harmless if it is gone."""
        try:
            self._api.remove(container)
        except SupervisorError:
            # Without conmon nobody writes the exit file podman waits for; it does so only once.
            self._api.remove(container)
        # Of a start or a conmon that was cut short, podman takes only its own record away: there
        # may be an OCI container still, with its cgroups, its first process and a conmon.
        self._delete_oci(container)

    def close(self) -> None:
        """End the API's service, which would end itself a little later."""
        if self._service is not None:
            self._service.close()

    def _delete_oci(self, container: str) -> None:
        sort = self.sort()
        # Without root, the container's processes can be signalled from podman's user namespace.
        entered = [self.program, "unshare"] if sort.rootless else []
        self._asked([*entered, sort.oci, "delete", "--force", container])

    def _asked(self, argv: Sequence[str]) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdio = (subprocess.DEVNULL, out.fileno(), err.fileno())
            status = self._run(argv, stdio, self._environment, Path("/"))
            return status, read(out), read(err)

    def _run(
        self, argv: Sequence[str], stdio: Sequence[int], env: Mapping[str, str], cwd: Path
    ) -> int:
        child = spawn(argv, stdio, env, cwd)
        try:
            return child.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise no_answer(argv[0], self._patience) from None
        finally:
            end(child)
