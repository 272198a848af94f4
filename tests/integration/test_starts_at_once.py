"""Many agents that are to start at once do not: a machine that starts all of them starts none."""

import asyncio
from pathlib import Path

import pytest

from supervisor.api.dialing import connect_unix
from supervisor.app import running
from supervisor.ports.runtime import Launch
from supervisor.runtimes.host import HostProcess, HostRuntime
from supervisor.settings import Settings
from supervisor.testing.app_server import install

CORES = 2
BOUND = 2 * CORES
PROJECTS = 3 * BOUND


class Counted(HostRuntime):
    """Starts wait until as many as may are under way, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self._full = asyncio.Event()

    async def start(self, launch: Launch) -> HostProcess:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= BOUND:
            self._full.set()
        await self._full.wait()
        try:
            return await super().start(launch)
        finally:
            self.now -= 1


async def test_at_most_twice_as_many_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.app.os.cpu_count", lambda: CORES)
    (tmp_path / "codex-home").mkdir()
    settings = Settings(
        state_dir=tmp_path / "state",
        codex_home=tmp_path / "codex-home",
        codex_bin=install(tmp_path),
        listen_port=0,
    )
    runtime = Counted()
    async with (
        asyncio.timeout(60),
        running(settings, runtime=runtime),
        connect_unix(tmp_path / "state" / "api.sock") as client,
    ):
        opened = []
        for number in range(PROJECTS):
            directory = tmp_path / f"p{number}"
            directory.mkdir()
            opened.append(client.call(None, "openProject", {"path": str(directory)}))
        for status in await asyncio.gather(*opened):
            assert isinstance(status, dict)
            await client.call(status["project"], "pingProject", {})
    assert runtime.most == BOUND
    assert runtime.now == 0
