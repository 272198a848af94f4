"""What the demonstration plays on: a temporary directory with a project, a Codex home that points
at the scripted model, and supervisors as processes of their own. Nothing of it is left behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import psutil

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.app import state_id
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.runtimes.readiness import why_no_containers
from supervisor.settings import Settings, environment
from supervisor.settings_groups import PodmanSettings, ProxySettings
from supervisor.settings_sources import to_toml
from supervisor.testing.model import config_toml

IDLE_EXIT_SECONDS = 60.0
"""A supervisor whose demonstration was killed ends by itself."""
END_SECONDS = 15.0
"""How long a supervisor may take to stop what it runs."""
LEFT_SECONDS = 2.0
LONGEST_DIRECTORY = 60
"""Bytes: a unix socket's path has 107 at most, and its name is part of it."""
NOBODY = 65534
"""Whose project it is in a container: nobody's on this machine, and not root's."""
KEY = "a-key-that-stays-outside"
START = (sys.executable, "-P", "-m", "supervisor.cli.main")
"""-P: nothing of the working directory is imported."""


class Stage:
    """Made by `build`, taken down by `clear`; both block."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.codex_home = root / "codex-home"
        self.log = root / "supervisor.log"
        self.settings = Settings(
            state_dir=root / "state",
            codex_home=self.codex_home,
            listen_port=0,
            idle_exit_seconds=IDLE_EXIT_SECONDS,
            podman=PodmanSettings(inner_wall="off"),
        )
        self.why_no_containers: str | None = "nobody has looked"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def build(cls) -> "Stage":
        """A directory nobody else can look into."""
        place = tempfile.gettempdir()
        if len(os.fsencode(place)) > LONGEST_DIRECTORY:
            place = "/tmp"  # noqa: S108  # mkdtemp makes it 0700 and of a name of its own
        stage = cls(Path(tempfile.mkdtemp(prefix="codex-supervisor-demo-", dir=place)).resolve())
        stage.project.mkdir()
        stage.codex_home.mkdir()
        return stage

    def contain(self) -> None:
        """Have the app-server run in a container, if one can be started here."""
        self.why_no_containers = why_no_containers(self.settings, environment())
        if self.why_no_containers is None:
            self.settings = self.settings.model_copy(update={"runtime": "podman"})

    def furnish(self, model_url: str, files: Mapping[str, str]) -> None:
        """Point Codex at the model, and put files into the project."""
        (self.codex_home / "config.toml").write_text(config_toml(model_url))
        key = self.root / "model-key"
        key.touch(mode=0o600)
        key.write_text(KEY + "\n")
        proxy = ProxySettings(base_url=model_url, key_file=key)
        self.settings = self.settings.model_copy(update={"proxy": proxy})
        (self.root / "config.toml").write_text(
            to_toml(self.settings.model_dump(mode="json", exclude_none=True))
        )
        for name, text in files.items():
            (self.project / name).write_text(text)
        if self.settings.runtime == "podman":
            for path in (self.project, *self.project.iterdir()):
                os.chown(path, NOBODY, NOBODY)

    @property
    def pid(self) -> int:
        """Of the supervisor that runs."""
        assert self._process is not None
        return self._process.pid

    def dial(self) -> AbstractAsyncContextManager[RpcClient]:
        """A connection; raises what the supervisor died of, if it did."""
        if self._process is not None and self._process.poll() is not None:
            raise SupervisorError(
                ErrorCode.INTERNAL, f"the supervisor ended by itself: {self.log_tail()}"
            )
        return connect_unix(self.settings.state_dir / "api.sock")

    def start(self) -> None:
        """Start a supervisor, as a person would, and do not wait for it."""
        command = [*START, "--config", str(self.root / "config.toml"), "--output", "json", "up"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self.project)],
                cwd=self.project,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is the demonstration's to hear.
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL the supervisor, and wait until it is gone."""
        # Forgotten first: who dials meanwhile must not take this end for one by itself.
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait(END_SECONDS)

    def log_tail(self) -> str:
        """The end of what the supervisors said."""
        try:
            return self.log.read_text(errors="replace")[-1000:].strip()
        except OSError:
            return ""

    def clear(self) -> list[str]:
        """End the supervisor in order, then whatever is left; what that was. Remove everything."""
        if self._process is not None and self._process.poll() is None:
            try:
                self._end(signal.SIGTERM)
            except subprocess.TimeoutExpired:
                self._end(signal.SIGKILL)
        # What was told to end may take a moment.
        _, slow = psutil.wait_procs(self._left(), timeout=LEFT_SECONDS)
        # Whoever has ended, and is not collected yet, counts as gone.
        left = [process for process in slow if self._is_ours(process)]
        told = [_described(process) for process in left]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=END_SECONDS)
        shutil.rmtree(self.root, ignore_errors=True)
        return told

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(END_SECONDS)

    def _environment(self) -> dict[str, str]:
        home = str(self.root)
        own = {"HOME": home, "CODEX_HOME": str(self.codex_home)}
        own |= dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), home)
        return environment() | own

    @property
    def _markers(self) -> str:
        return f"{state_id(self.settings.state_dir)}:"

    def _left(self) -> list[psutil.Process]:
        """Every process that came from this stage: they inherit its Codex home, carry its marker,
        or have its state directory in their command line, as a proxy and a conmon have."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            variables = process.environ()
            return (
                variables.get("CODEX_HOME") == str(self.codex_home)
                or variables.get(MARKER_VARIABLE, "").startswith(self._markers)
                or any(str(self.settings.state_dir) in word for word in process.cmdline())
            )
        except (psutil.Error, OSError):
            return False


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    except psutil.Error:
        return str(process.pid)
