"""A container's door to the model, without a container: a listener on loopback that the proxy's own
code serves; and an upstream that tells what it was asked."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from supervisor.credentials.connect import Tunnels
from supervisor.credentials.forward import UPLOAD_SECONDS, Forwarder
from supervisor.credentials.holding import Holdings
from supervisor.credentials.key import Key
from supervisor.credentials.messages import Open, Served
from supervisor.settings_groups import ProxySettings

CANARY = "sk-canary-0123456789abcdef"
DEADLINE = 60.0

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Upstream:
    """A server in place of the model API; `handle` may be changed at any time."""

    handle: Handle
    base_url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path with query, and headers (lower case) of every request."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went away before its answer had ended."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers))
        try:
            return await self.handle(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise


async def fine(request: web.Request) -> web.StreamResponse:
    """The body comes back."""
    return web.Response(body=await request.read())


@asynccontextmanager
async def upstream(handle: Handle = fine, **more: Any) -> AsyncIterator[Upstream]:
    """One that serves; `more` is for its site."""
    made = Upstream(handle)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", made._handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, **more)
        await site.start()
        scheme = "https" if "ssl_context" in more else "http"
        made.base_url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield made
    finally:
        await runner.cleanup()


def key_file(directory: Path, key: str = CANARY) -> Path:
    """A file with a key."""
    file = directory / "key"
    file.write_text(key + "\n")
    file.chmod(0o600)
    return file


def listener() -> socket.socket:
    """On a port of loopback."""
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    return made


@dataclass
class Door:
    """What a container sees."""

    port: int
    connect_port: int
    session: aiohttp.ClientSession
    holdings: Holdings

    @property
    def url(self) -> str:
        """Of the model, inside."""
        return f"http://127.0.0.1:{self.port}/v1"

    def post(self, data: Any = b"{}", **more: Any) -> Any:
        """A model request, to be entered."""
        return self.session.post(f"{self.url}/responses", data=data, **more)

    def get(self, **more: Any) -> Any:
        """A request for the models, to be entered."""
        return self.session.get(f"{self.url}/models", **more)

    def served(self) -> Served:
        """As the supervisor is told of it."""
        return self.holdings.page("").containers[0]

    async def raw(self, data: bytes, *, ended: bool = False) -> bytes:
        """All that is answered to these bytes until the connection is closed; `ended` closes the
        sending side after them."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if ended:
                writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


@asynccontextmanager
async def door(
    settings: ProxySettings,
    tunnels: Tunnels | None = None,
    *,
    upload_seconds: float = UPLOAD_SECONDS,
) -> AsyncIterator[Door]:
    """One that is served as long as the context is open. Its container never ends."""
    model, connect = listener(), listener()
    ports = model.getsockname()[1], connect.getsockname()[1]
    told = Open(project="p", generation=1, marker="p.1")
    async with (
        asyncio.timeout(DEADLINE),
        Forwarder(settings, Key(settings.key_file), upload_seconds=upload_seconds) as forwarder,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        holdings = Holdings(forwarder, tunnels or Tunnels(settings), group)
        taken = [os.pidfd_open(os.getpid()), model.detach(), connect.detach()]
        await holdings.open(told, taken)
        try:
            yield Door(*ports, session, holdings)
        finally:
            await holdings.close_all()
