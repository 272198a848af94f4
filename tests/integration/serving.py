"""Servers of the RPC over fake agents, as tests run them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from supervisor.api.authentication import Gate
from supervisor.api.connection import Limits
from supervisor.api.http import HttpServer, Readiness
from supervisor.api.unix import UnixServer
from supervisor.api.websocket import WebSocketPeers
from supervisor.buses.frames import encode_request
from supervisor.metrics import Metrics
from tests.unit.rpc.fakes import CountingMeter, FakeAgent, FakeAgents, dispatcher

SUBJECT = "codex.project-p1.account-local.api"
TOKEN = "0123456789abcdef0123456789abcdef"
DEADLINE = 30.0


class Serving:
    """A running server, what is behind it, and what it counted."""

    def __init__(self) -> None:
        self.agent = FakeAgent("p1")
        self.theirs = FakeAgent("theirs", account="other")
        self.meter = CountingMeter()
        self.service = dispatcher(FakeAgents(self.agent, self.theirs), self.meter)
        self.readiness = Readiness(ready=True)
        self.path = Path()
        self.address = ("", 0)

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def ws(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}/v1/rpc"


@asynccontextmanager
async def unix_server(path: Path, limits: Limits | None = None) -> AsyncIterator[Serving]:
    serving = Serving()
    serving.path = path
    server = UnixServer(path, serving.service, limits or Limits(), serving.meter, version="1.2.3")
    server.bind()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        try:
            yield serving
        finally:
            task.cancel()
            server.close()


@asynccontextmanager
async def http_server(
    limits: Limits | None = None, *, host: str = "127.0.0.1", gate: Gate | None = None
) -> AsyncIterator[Serving]:
    serving = Serving()
    peers = WebSocketPeers(serving.service, limits or Limits(), serving.meter, version="1.2.3")
    server = HttpServer(
        host=host,
        port=0,
        gate=gate or Gate(token=TOKEN),
        peers=peers,
        readiness=lambda: serving.readiness,
        exposition=Metrics(CollectorRegistry()).exposition,
        meter=serving.meter,
    )
    serving.address = server.bind()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        try:
            yield serving
        finally:
            task.cancel()
            server.close()


class RawPeer:
    """A peer that writes whatever bytes a test likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> dict[str, Any]:
        shown = json.loads(await self.reader.readline())
        assert isinstance(shown, dict)
        return shown

    def stop_reading(self) -> None:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    def ask(self, inbox: str, method: str, **params: object) -> None:
        self.writer.write(encode_request(SUBJECT, method, params, inbox) + b"\n")


@asynccontextmanager
async def raw_peer(path: Path) -> AsyncIterator[RawPeer]:
    """Connected and greeted."""
    reader, writer = await asyncio.open_unix_connection(path, limit=2**26)
    peer = RawPeer(reader, writer)
    try:
        assert (await peer.frame())["subject"] == "_HELLO"
        yield peer
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait, within the deadline of the server around it, for something to become true."""
    while not holds():  # noqa: ASYNC110  # what it watches has no event
        await asyncio.sleep(0.005)


@asynccontextmanager
async def impostor(path: Path, *said: bytes) -> AsyncIterator[None]:
    """A server that says `said`, a piece at first and one for each line it reads, then nothing."""
    active = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal active
        active += 1
        for piece in said:
            writer.write(piece)
            if not await reader.readline():
                break
        await reader.read()
        writer.close()
        active -= 1

    async with asyncio.timeout(DEADLINE):
        server = await asyncio.start_unix_server(handle, path)
        async with server:
            yield
            await until(lambda: active == 0)
