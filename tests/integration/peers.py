"""Connections that send whatever a test likes, over either transport of a whole supervisor."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp

from tests.integration.hosted import Hosted
from tests.integration.serving import raw_peer


class Peer(Protocol):
    """A connection that sends whatever bytes a test likes as one frame."""

    async def send(self, frame: bytes) -> None: ...

    async def frame(self) -> dict[str, Any]: ...


class UnixPeer:
    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def send(self, frame: bytes) -> None:
        self._raw.writer.write(frame + b"\n")
        await self._raw.writer.drain()

    async def frame(self) -> dict[str, Any]:
        shown = await self._raw.frame()
        assert isinstance(shown, dict)
        return shown


class WebSocketPeer:
    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        self.socket = socket

    async def send(self, frame: bytes) -> None:
        await self.socket.send_frame(frame, aiohttp.WSMsgType.TEXT)

    async def frame(self) -> dict[str, Any]:
        shown = json.loads(await self.socket.receive_str())
        assert isinstance(shown, dict)
        return shown


def token(host: Hosted) -> str:
    return (host.root / "state" / "token").read_text().strip()


def http_url(host: Hosted) -> str:
    return host.supervisor.addresses.url.replace("ws://", "http://").removesuffix("/v1/rpc")


@asynccontextmanager
async def connected(host: Hosted, transport: str) -> AsyncIterator[Peer]:
    """A greeted peer."""
    if transport == "unix":
        async with raw_peer(host.socket) as raw:
            yield UnixPeer(raw)
        return
    bearer = {"Authorization": f"Bearer {token(host)}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(host.supervisor.addresses.url, headers=bearer, max_msg_size=0) as socket,
    ):
        peer = WebSocketPeer(socket)
        assert (await peer.frame())["subject"] == "_HELLO"
        yield peer
