"""A whole installation in a temporary directory: scripted model, codex home, project, supervisors.

Used by tests/e2e, tests/chaos and tests/bench. The supervisor is a process of its own (see
tests.victim), so that it can be killed; the model lives in the test, so that it can be asked.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.app import state_id
from supervisor.errors import SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.runtimes.podman_command import Podman
from supervisor.testing.model import ScriptedModel, config_toml
from tests.containers import OWNER, containers_of, remove_containers, require_podman, seed_copies
from tests.victim import Faults

ROOT = Path(__file__).parents[1]
DEADLINE = 60.0
"""Seconds: generous, for nothing here is about time."""
FREE = {"sandbox": "danger-full-access", "approvalPolicy": "never"}
ASKING = {"sandbox": "danger-full-access", "approvalPolicy": "untrusted"}


class Rig:
    """Made by `rig`."""

    def __init__(self, root: Path, model: ScriptedModel, settings: dict[str, object]) -> None:
        self.root = root
        self.model = model
        self.project_dir = root / "project"
        self.codex_home = root / "codex-home"
        self.state_dir = root / "state"
        self.log = root / "supervisor.log"
        self.settings: dict[str, object] = {
            "state_dir": str(self.state_dir),
            "codex_home": str(self.codex_home),
            "listen_port": 0,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.addresses: dict[str, Any] = {}
        for directory in (self.project_dir, self.codex_home):
            directory.mkdir()
        (self.codex_home / "config.toml").write_text(config_toml(model.base_url))
        self.podman: Mapping[str, str] | None = None
        """The environment podman works in, where app-servers are contained."""

    @property
    def socket(self) -> Path:
        return self.state_dir / "api.sock"

    async def start(self, faults: Faults | None = None) -> None:
        """Start a supervisor and wait until it serves, or has died of its faults."""
        orders = {"settings": self.settings, "faults": faults or Faults(), "log": str(self.log)}
        self.process = self._spawn(msgspec.json.encode(orders).decode())
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        if line:
            self.addresses = msgspec.json.decode(line)
        elif faults is None:
            raise AssertionError((self.root / "supervisor.err").read_text()[-3000:])

    def _spawn(self, orders: str) -> subprocess.Popen[bytes]:
        with (self.root / "supervisor.err").open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.victim", orders],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def kill(self) -> None:
        """SIGKILL it, and wait."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal, and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.reap()

    def reap(self) -> int:
        """Wait for an end that somebody else brings about."""
        assert self.process is not None
        code = self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[RpcClient]:
        """A client, once somebody answers."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    context = connect_unix(self.socket)
                    client = await context.__aenter__()
                    break
                except SupervisorError:
                    await asyncio.sleep(0.02)
        try:
            yield client
        finally:
            await context.__aexit__(None, None, None)

    async def open(self, client: RpcClient) -> str:
        """Open the project; its id."""
        status = await client.call(None, "openProject", {"path": str(self.project_dir)})
        assert isinstance(status, dict)
        return str(status["project"])

    @property
    def markers(self) -> str:
        """What the markers of this rig's generations begin with."""
        return f"{state_id(self.state_dir)}:"

    def containers(self) -> list[str]:
        """The ids of the containers that podman has of this rig, in whatever state."""
        assert self.podman is not None
        return containers_of(self.podman, self.markers)

    def podmans(self, *argv: str) -> str:
        """What podman answers to a command line."""
        assert self.podman is not None
        return Podman(self.podman).ask(*argv)

    def processes(self) -> list[psutil.Process]:
        """Every process that a supervisor of this rig started."""
        return [p for p in psutil.process_iter() if self._started(p) and _lives(p)]

    def _started(self, process: psutil.Process) -> bool:
        try:
            variables = process.environ()
            return (
                str(self.root) in variables.get("CODEX_HOME", "")
                or variables.get(MARKER_VARIABLE, "").startswith(self.markers)
                or self._is_proxy(process.cmdline())
            )
        except psutil.Error:
            return False

    def _is_proxy(self, line: list[str]) -> bool:
        """It outlives its supervisor, and knows no project."""
        return "proxy" in line and any(str(self.state_dir) in word for word in line)

    def shut(self) -> None:
        """End everything that is left."""
        if self.alive:
            assert self.process is not None
            self.process.send_signal(signal.SIGTERM)
            try:
                self.reap()
            except subprocess.TimeoutExpired:
                self.kill()
        for process in self.processes():
            process.kill()
        if self.podman is not None:
            remove_containers(self.podman, self.markers)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@asynccontextmanager
async def contained_rig(root: Path, **settings: object) -> AsyncIterator[Rig]:
    """A rig whose app-servers run in containers, and reach the model by the proxy, with a key."""
    variables = require_podman(root)
    key = root / "model-key"
    key.touch(mode=0o600)
    key.write_text(f"sk-canary-{secrets.token_hex(16)}\n")
    podman: dict[str, object] = {"inner_wall": "off"}
    if "CONTAINERS_CONF" in variables:
        podman["containers_conf"] = variables["CONTAINERS_CONF"]
    given = settings.pop("podman", {})
    assert isinstance(given, dict)
    async with rig(root, runtime="podman", podman={**podman, **given}, **settings) as made:
        made.podman = variables
        seed_copies(Path(str(made.settings["state_dir"])))
        os.chown(made.project_dir, OWNER, OWNER)
        made.settings["proxy"] = {"base_url": made.model.base_url, "key_file": str(key)}
        yield made


@asynccontextmanager
async def rig(root: Path, **settings: object) -> AsyncIterator[Rig]:
    """A rig without a running supervisor. Nothing is left behind."""
    async with ScriptedModel() as model:
        made = Rig(root, model, settings)
        try:
            yield made
        finally:
            made.shut()
