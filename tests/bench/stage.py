"""Where things are measured: a directory, a model, a bare codex, and `codex-supervisor up`.

The model and the supervisor are processes of their own, as they are in use; the one that measures
is the client of both sides, over the same event loop (uvloop).
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from codex_cli_bin import bundled_codex_path

from supervisor.settings import environment
from supervisor.settings_sources import to_toml
from supervisor.testing.codex_config import codex_environment, codex_overrides, config_toml
from supervisor.testing.driver import BareAppServer
from tests.containers import OWNER, require_podman
from tests.rig import DEADLINE, FREE, ROOT, Rig
from tests.victim import Faults

PING = "thread/loaded/list"
"""What `pingProject` asks codex."""


class Stage:
    """Made by `staged`. Every part of the benchmark takes directories of its own below `root`."""

    def __init__(self, root: Path, model_url: str) -> None:
        self.root = root
        self.model_url = model_url
        self._made = 0

    def directory(self, name: str) -> Path:
        """A new one."""
        self._made += 1
        path = self.root / f"{self._made}-{name}"
        path.mkdir()
        return path

    @property
    def overrides(self) -> list[str]:
        """Codex's arguments that make the model its model."""
        return codex_overrides(self.model_url)

    def bare(
        self, tap: Callable[[bytes], bool] | None = None, *, home: Path | None = None
    ) -> BareAppServer:
        """A codex over plain pipes, not started yet; in a home of its own, or a used one."""
        home, project = home or self.directory("home"), self.directory("project")
        return BareAppServer.codex(bundled_codex_path(), home, project, self.overrides, tap=tap)

    @asynccontextmanager
    async def own_websocket(self) -> AsyncIterator[str]:
        """A codex that listens on a WebSocket by itself; its URL."""
        process = await asyncio.create_subprocess_exec(
            bundled_codex_path(),
            *self.overrides,
            "app-server",
            "--listen",
            "ws://127.0.0.1:0",
            env=codex_environment(self.directory("home")),
            cwd=self.directory("project"),
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(DEADLINE):
                while b"listening on:" not in (line := await process.stderr.readline()):
                    assert line, "codex has ended"
            yield line.split(b"listening on:")[1].strip().decode()
        finally:
            process.kill()
            await process.communicate()

    @asynccontextmanager
    async def supervised(self, **settings: object) -> AsyncIterator["Supervised"]:
        """A supervisor, running; with `codex_bin` of another codex than the real one."""
        supervised = Supervised(self.directory("rig"), self.model_url, settings)
        try:
            await supervised.start()
            yield supervised
        finally:
            supervised.shut()

    @asynccontextmanager
    async def contained(self, **settings: object) -> AsyncIterator["Supervised"]:
        """The same, with app-servers in containers."""
        more = {"runtime": "podman", "proxy": {"base_url": self.model_url}, **settings}
        supervised = Supervised(self.directory("rig"), self.model_url, more)
        supervised.podman = require_podman(supervised.root)
        os.chown(supervised.project_dir, OWNER, OWNER)
        try:
            await supervised.start()
            yield supervised
        finally:
            supervised.shut()


class Supervised(Rig):
    """`codex-supervisor up`, in a process of its own: what people run, uvloop included."""

    def __init__(self, root: Path, model_url: str, settings: dict[str, object]) -> None:
        # Not the rig's model, which would share this process with the client that measures.
        self.root = root
        self.project_dir = root / "project"
        self.codex_home = root / "codex-home"
        self.state_dir = root / "state"
        self.log = root / "supervisor.err"
        self.settings = {
            "state_dir": str(self.state_dir),
            "codex_home": str(self.codex_home),
            "listen_port": 0,
            "log_level": "warning",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.addresses: dict[str, Any] = {}
        self.podman = None
        for directory in (self.project_dir, self.codex_home):
            directory.mkdir()
        (self.codex_home / "config.toml").write_text(config_toml(model_url))

    def _spawn(self, orders: str) -> subprocess.Popen[bytes]:
        config = self.root / "config.toml"
        config.write_text(to_toml(self.settings))
        up = [sys.executable, "-m", "supervisor.cli.main", "up", str(self.project_dir)]
        with (self.root / "supervisor.err").open("ab") as stderr:
            return subprocess.Popen(
                [*up, "--config", str(config), "--output", "json"],
                cwd=ROOT,
                # Neither the person's own settings nor those of this shell are measured.
                env={**environment(), "HOME": str(self.root), "XDG_CONFIG_HOME": str(self.root)},
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    async def start(self, faults: Faults | None = None) -> None:
        assert faults is None
        await super().start()

    @property
    def project(self) -> str:
        """The project `up` was told to open."""
        return str(self.addresses["project"])

    @property
    def token(self) -> str:
        return Path(self.addresses["tokenFile"]).read_text().strip()

    def cpu_seconds(self) -> float:
        """Of the supervisor process itself, so far."""
        assert self.process is not None
        spent = psutil.Process(self.process.pid).cpu_times()
        return spent.user + spent.system

    def memory_bytes(self) -> int:
        """What would be free again without the supervisor process."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_full_info().uss)

    async def thread(self) -> str:
        """Start a thread; its id."""
        async with self.dial() as client:
            started = await client.call(self.project, "startThread", dict(FREE))
        assert isinstance(started, dict)
        return str(started["threadId"])


@asynccontextmanager
async def staged(root: Path) -> AsyncIterator[Stage]:
    """A stage with a scripted model in a process of its own. Ended with it."""
    model = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisor.testing.model", cwd=ROOT, stdout=subprocess.PIPE
    )
    assert model.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            told = json.loads(await model.stdout.readline())
        yield Stage(root, told["base_url"])
    finally:
        model.terminate()
        await model.communicate()


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since it was made."""
    began = time.perf_counter()
    yield lambda: time.perf_counter() - began
