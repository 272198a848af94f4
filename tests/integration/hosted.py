"""A whole supervisor in the test's own process, over the fake app-server."""

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.app import Supervisor, running
from supervisor.ports.store import Store
from supervisor.settings import Settings
from supervisor.testing.app_server import install

DEADLINE = 60.0
LINE_LIMIT = 64 * 1024
EVENT = re.compile(
    rb'\{"type":"event","cursor":"(\w+)\.(\d+)","prev":"\1\.(\d+)","message":(.*)\}', re.DOTALL
)


def raw(data: bytes, times: int = 1) -> str:
    """The prompt that makes the fake write `data` so many times, in the turn's text."""
    return f"raw:{base64.b64encode(data).decode()} times={times}"


class Seen:
    """What one subscriber got, in order."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.ends: list[bytes] = []
        """Those that say a turn ended."""
        self._changed = asyncio.Event()

    async def run(self, client: RpcClient, project: str, **params: object) -> None:
        """Until cancelled."""
        stream = client.stream_raw(project, "subscribe", dict(params))
        async with aclosing(stream) as payloads:
            async for payload in payloads:
                self.payloads.append(payload)
                if b'"message":{"method":"turn/completed"' in payload:
                    self.ends.append(payload)
                self._changed.set()

    async def until(self, wanted: Callable[["Seen"], object]) -> None:
        while not wanted(self):
            self._changed.clear()
            await self._changed.wait()

    async def until_end(self, turn: str) -> None:
        """Wait for the end of that turn to be told."""
        await self.until(lambda seen: any(turn.encode() in end for end in seen.ends))

    @property
    def events(self) -> list[tuple[int, bytes]]:
        """Number and message of each event, after a check that nothing lacks between them."""
        found: list[tuple[int, bytes]] = []
        last: int | None = None
        for payload in self.payloads:
            match = EVENT.fullmatch(payload)
            if match is None:
                kind = json.loads(payload)["type"]
                assert kind in {"snapshot", "lagging"}, payload[:200]
                if kind == "snapshot":
                    last = int(json.loads(payload)["cursor"].split(".")[1])
                continue
            n, prev = int(match[2]), int(match[3])
            assert last in {None, prev}, f"a gap before {n}: after {last} came prev {prev}"
            assert n > prev
            last = n
            found.append((n, match[4]))
        return found

    @property
    def said(self) -> list[bytes]:
        """The messages of the app-server, and the records of lines that are none."""
        own = b'{"method":"supervisor/'
        refused = b'{"method":"supervisor/lineRefused"'
        return [m for _, m in self.events if not m.startswith(own) or m.startswith(refused)]

    def methods(self) -> list[str]:
        return [str(json.loads(m)["method"]) for _, m in self.events]


class Hosted:
    """A running supervisor with its client."""

    def __init__(self, root: Path, supervisor: Supervisor, client: RpcClient) -> None:
        self.root = root
        self.supervisor = supervisor
        self.client = client

    @property
    def socket(self) -> Path:
        return self.root / "state" / "api.sock"

    async def call(self, project: str | None, method: str, **params: object) -> Any:
        return await self.client.call(project, method, params)

    async def open(self, name: str) -> str:
        """A project of its own, by the name of its directory."""
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        status = await self.call(None, "openProject", path=str(directory))
        return str(status["project"])

    async def thread(self, project: str) -> str:
        return str((await self.call(project, "startThread"))["threadId"])

    async def send(self, project: str, thread: str, text: str, **params: object) -> str:
        sent = await self.call(project, "sendMessage", threadId=thread, text=text, **params)
        return str(sent["turnId"])

    def metric(self, name: str, **labels: str) -> float:
        """As a scrape would have it."""
        self.supervisor.exposition()
        found = self.supervisor.metrics.registry.get_sample_value(
            f"codex_supervisor_{name}", labels or None
        )
        assert found is not None, f"there is no {name} {labels}"
        return found

    def spool(self, project: str, generation: int = 1) -> Path:
        return self.root / "state" / "projects" / project / str(generation) / "stdout"

    def spooled(self, project: str, generation: int = 1) -> list[bytes]:
        return self.spool(project, generation).read_bytes().split(b"\n")[:-1]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database holds."""
        with closing(sqlite3.connect(self.root / "state" / "supervisor.db")) as database:
            return database.execute(query, values).fetchall()


@asynccontextmanager
async def hosted(
    root: Path, store: Store | None = None, **settings: object
) -> AsyncIterator[Hosted]:
    """A supervisor whose codex is the fake; again on the same `root`, its successor."""
    (root / "codex-home").mkdir(exist_ok=True)
    told = Settings(
        **{
            "state_dir": root / "state",
            "codex_home": root / "codex-home",
            "codex_bin": install(root),
            "listen_port": 0,
            "line_limit_bytes": LINE_LIMIT,
            "punch_spools": False,
            "stop_grace_seconds": 1.0,
            "restart": {"base_seconds": 0.01, "cap_seconds": 0.05},
        }
        | settings
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(DEADLINE))
        supervisor = await stack.enter_async_context(running(told, store=store))
        client = await stack.enter_async_context(connect_unix(root / "state" / "api.sock"))
        yield Hosted(root, supervisor, client)


@asynccontextmanager
async def watching(host: Hosted, project: str, **params: object) -> AsyncIterator[Seen]:
    """A subscriber with a connection of its own, from its first payload on."""
    seen = Seen()
    async with connect_unix(host.socket) as client, asyncio.TaskGroup() as group:
        task = group.create_task(seen.run(client, project, **params))
        await seen.until(lambda s: s.payloads)
        yield seen
        task.cancel()
