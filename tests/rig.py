"""A whole installation in a temporary directory: scripted model, codex home, project, supervisors.

Used by tests/e2e, tests/chaos and tests/bench. The supervisor is a process of its own (see
tests.victim), so that it can be killed; the model lives in the test, so that it can be asked.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.errors import SupervisorError
from supervisor.testing.model import ScriptedModel, config_toml
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

    def processes(self) -> list[psutil.Process]:
        """Every process that a supervisor of this rig started."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.root) in process.environ().get("CODEX_HOME", ""):
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if _lives(p)]

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


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@asynccontextmanager
async def rig(root: Path, **settings: object) -> AsyncIterator[Rig]:
    """A rig without a running supervisor. Nothing is left behind."""
    async with ScriptedModel() as model:
        made = Rig(root, model, settings)
        try:
            yield made
        finally:
            made.shut()
