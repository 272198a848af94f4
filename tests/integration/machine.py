"""A supervisor of this process, on real sockets and a real database; codex is the fake app-server.

Each project has a codex of its own, so that one can be broken beside a healthy one.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.app import Supervisor, running
from supervisor.errors import SupervisorError
from supervisor.settings import Settings
from supervisor.testing.app_server import install

DEADLINE = 60
START_TIMEOUT = 1.5


class Machine:
    """A directory with a codex of its own for each project, and the settings for it all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.codex = root / "codex"
        # Each app-server is started in its project, and takes the codex that lies there.
        self.codex.write_text('#!/bin/sh\nexec "$PWD/codex" "$@"\n')
        self.codex.chmod(0o755)
        (root / "codex-home").mkdir()

    def settings(self, **changes: Any) -> Settings:
        told: dict[str, Any] = {
            "state_dir": self.state_dir,
            "codex_home": self.root / "codex-home",
            "codex_bin": self.codex,
            "listen_port": 0,
            "start_timeout_seconds": START_TIMEOUT,
            "stop_grace_seconds": 1,
            "restart": {"base_seconds": 0.01, "cap_seconds": 0.05, "intensity": 1},
        }
        return Settings(**{**told, **changes})

    def project(self, name: str, behaviour: str = "ok") -> Path:
        directory = self.root / name
        directory.mkdir()
        install(directory, behaviour)
        return directory


class Served:
    """A supervisor of this process, and a client of it."""

    def __init__(self, supervisor: Supervisor, client: RpcClient) -> None:
        self.supervisor = supervisor
        self.client = client

    async def open(self, directory: Path) -> str:
        status = await self.client.call(None, "openProject", {"path": str(directory)})
        assert isinstance(status, dict)
        return str(status["project"])

    async def call(self, project: str, method: str, **params: Any) -> dict[str, Any]:
        result = await self.client.call(project, method, params)
        assert isinstance(result, dict)
        return result

    async def turn(self, project: str, text: str = "text n=3") -> None:
        """Let a whole turn run."""
        stream = self.client.stream(project, "subscribe", {})
        thread = (await self.call(project, "startThread"))["threadId"]
        await anext(stream)
        await self.call(project, "sendMessage", threadId=thread, text=text)
        async for payload in stream:
            assert isinstance(payload, dict)
            if payload.get("message", {}).get("method") == "turn/completed":
                break
        await stream.aclose()

    async def refused(self, project: str, method: str, **params: Any) -> SupervisorError:
        """How it is refused: with a hint, and counted."""
        with pytest.raises(SupervisorError) as raised:
            await self.call(project, method, **params)
        error = raised.value
        assert error.hint
        assert self.metric(f'rpc_errors_total{{code="{error.code}"}}') >= 1
        return error

    async def status(self, project: str, **wanted: object) -> dict[str, Any]:
        """Wait until the project's state has these values; all of it."""
        while True:
            status = await self.call(project, "projectStatus")
            if wanted.items() <= status.items():
                return status
            await asyncio.sleep(0.01)

    def metric(self, sample: str) -> float:
        """The value of one sample, named as the exposition names it."""
        text = self.supervisor.exposition().decode()
        found = re.search(rf"^codex_supervisor_{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        return 0.0 if found is None else float(found[1])


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    async with (
        asyncio.timeout(DEADLINE),
        running(settings) as supervisor,
        connect_unix(supervisor.addresses.socket) as client,
    ):
        yield Served(supervisor, client)


async def refusal(settings: Settings) -> SupervisorError:
    """Why no supervisor starts with these settings."""
    with pytest.raises(SupervisorError) as raised:
        async with asyncio.timeout(DEADLINE), running(settings):
            pass
    assert raised.value.hint
    return raised.value
