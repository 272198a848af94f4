"""Making an `RpcClient`: over the unix socket, or over the WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp

from supervisor.api.client import RpcClient, parse_hello
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.framing import LineFramer, Oversized

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection and the greeting."""
MAX_REPLY = 128 * 1024 * 1024
"""Bytes of one frame of the server."""


@asynccontextmanager
async def connect_unix(path: Path, *, timeout: float = CONNECT_TIMEOUT) -> AsyncIterator[RpcClient]:
    """A client on a unix socket. Raises `supervisor_unreachable`."""
    loop = asyncio.get_running_loop()
    link = _UnixLink()
    try:
        async with asyncio.timeout(timeout):
            await loop.create_unix_connection(lambda: link, str(path))
            client = await link.ready
    except TimeoutError:
        link.close()
        raise _unreachable(str(path), "no greeting in time") from None
    except OSError as error:
        raise _unreachable(str(path), error.strerror or str(error)) from None
    except BaseException:
        link.close()
        raise
    try:
        yield client
    finally:
        client.lose(_closed())
        link.close()


class _UnixLink(asyncio.Protocol):
    """The bytes of one client connection."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[RpcClient] = asyncio.get_running_loop().create_future()
        self._framer = LineFramer(MAX_REPLY)
        self._client: RpcClient | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for line in self._framer.feed(data):
                self._take(line)
        except SupervisorError as error:
            self._fail(error)

    def _take(self, line: bytes | Oversized) -> None:
        if isinstance(line, Oversized):
            raise SupervisorError(
                ErrorCode.CONNECTION_LOST, f"the server sent a frame of {line.size} bytes"
            )
        if self._client is not None:
            self._client.received(line)
            return
        self._client = RpcClient(self._write, self._set_reading, parse_hello(line))
        if not self.ready.done():
            self.ready.set_result(self._client)

    def _fail(self, error: SupervisorError) -> None:
        if self._client is not None:
            self._client.lose(error)
        elif not self.ready.done():
            self.ready.set_exception(error)
            # A caller that was cancelled before it came to wait never looks: no complaint of that.
            self.ready.exception()
        self.close()

    async def _write(self, frame: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise _lost()
        self._transport.write(frame + b"\n")
        if not self._writable.is_set():
            await self._writable.wait()

    def _set_reading(self, reading: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._writable.set()
        self._fail(_lost())

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def connect_websocket(
    url: str, token: str, *, timeout: float = CONNECT_TIMEOUT
) -> AsyncIterator[RpcClient]:
    """A client on the WebSocket, `ws://HOST:PORT/v1/rpc`. Raises `supervisor_unreachable`, or what
    the server refused it with (`unauthenticated`)."""
    failure: BaseException | None = None
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(timeout):
                socket = await _upgrade(session, url, token)
                link = _WebSocketLink(socket)
                client = await link.greeted()
        except TimeoutError:
            raise _unreachable(url, "no greeting in time") from None
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(link.read(client))
            try:
                yield client
            except Exception as error:  # noqa: BLE001  # raised again outside the group, bare
                failure = error
            finally:
                client.lose(_closed())
                reader.cancel()
                await socket.close()
    if failure is not None:
        raise failure


async def _upgrade(
    session: aiohttp.ClientSession, url: str, token: str
) -> "aiohttp.ClientWebSocketResponse[bool]":
    try:
        return await session.ws_connect(
            url, headers={"Authorization": f"Bearer {token}"}, max_msg_size=MAX_REPLY, compress=0
        )
    except aiohttp.WSServerHandshakeError as error:
        refused = {401: ErrorCode.UNAUTHENTICATED, 403: ErrorCode.FORBIDDEN}
        code = refused.get(error.status, ErrorCode.SUPERVISOR_UNREACHABLE)
        raise SupervisorError(code, f"{url} refused the connection ({error.status})") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _unreachable(url, str(error)) from None


class _WebSocketLink:
    """The messages of one client connection."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        self._socket = socket
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def greeted(self) -> RpcClient:
        """The client, once the server has said hello."""
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _lost()
        return RpcClient(self._write, self._set_reading, parse_hello(message.data.encode()))

    async def read(self, client: RpcClient) -> None:
        """Read until the server is gone."""
        problem = _lost()
        try:
            while True:
                await self._may_read.wait()
                message = await self._socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                client.received(message.data.encode())
        except SupervisorError as error:
            problem = error
        client.lose(problem)

    async def _write(self, frame: bytes) -> None:
        try:
            await self._socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
        except (ConnectionError, RuntimeError, aiohttp.ClientError):
            raise _lost() from None

    def _set_reading(self, reading: bool) -> None:
        if reading:
            self._may_read.set()
        else:
            self._may_read.clear()


def _lost() -> SupervisorError:
    return SupervisorError(ErrorCode.CONNECTION_LOST, "the supervisor closed the connection")


def _closed() -> SupervisorError:
    return SupervisorError(ErrorCode.CONNECTION_LOST, "this client is closed")


def _unreachable(where: str, why: str) -> SupervisorError:
    return SupervisorError(ErrorCode.SUPERVISOR_UNREACHABLE, f"no supervisor at {where}: {why}")
