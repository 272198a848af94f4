"""The RPC on a WebSocket: one frame a text message, `GET /v1/rpc`."""

import asyncio

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from supervisor.api.connection import Connection, Limits
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.bus import Service
from supervisor.rpc.meter import RpcMeter

HEARTBEAT = 30.0
"""Seconds between pings; half of it later an unanswered one ends the connection."""

UNTIMED = 16 * 1024
"""Bytes of a frame that fits an empty write buffer, whose high-water mark is 64 KiB."""

_log = structlog.get_logger(__name__)


class WebSocketPeers:
    """Every WebSocket of one server."""

    def __init__(self, service: Service, limits: Limits, meter: RpcMeter, *, version: str) -> None:
        self._service = service
        self._limits = limits
        self._meter = meter
        self._version = version
        self._open: set[web.WebSocketResponse] = set()

    def check_room(self) -> None:
        """Raises `overloaded` when no connection more may be had."""
        if len(self._open) >= self._limits.connections:
            raise SupervisorError(
                ErrorCode.OVERLOADED, f"{self._limits.connections} connections are open already"
            )

    async def serve(self, request: web.Request, principal: Principal) -> web.WebSocketResponse:
        """Upgrade the request of an admitted principal, and serve until it goes."""
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.max_frame_bytes,
            compress=False,
            heartbeat=HEARTBEAT,
            decode_text=False,
        )
        if not socket.can_prepare(request).ok:
            raise SupervisorError(ErrorCode.BAD_REQUEST, "this is no WebSocket handshake")
        peer = _Peer(socket, request, self._limits, self._meter)
        connection = Connection(
            principal,
            self._service,
            peer.send,
            self._limits,
            meter=self._meter,
            transport="websocket",
        )
        self._open.add(socket)
        self._meter.connection_opened("websocket")
        try:
            await socket.prepare(request)
            await connection.run(self._version, lambda: peer.read(connection))
        except ConnectionError:
            pass  # it went before, or while, the upgrade was written
        except Exception:  # noqa: BLE001  # one connection must not end the others
            _log.exception("connection failed", action="rpc_connection_internal")
        finally:
            self._open.discard(socket)
            self._meter.connection_closed("websocket")
        return socket

    async def close(self) -> None:
        """Say goodbye to all of them."""
        async with asyncio.TaskGroup() as group:
            for socket in self._open:
                group.create_task(_goodbye(socket))


async def _goodbye(socket: web.WebSocketResponse) -> None:
    await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the supervisor stops", drain=False)


class _Peer:
    """One WebSocket's messages."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        limits: Limits,
        meter: RpcMeter,
    ) -> None:
        self._socket = socket
        self._request = request
        self._limits = limits
        self._meter = meter

    async def send(self, frame: bytes) -> None:
        """See `Connection`."""
        try:
            if self._has_room(frame):
                await self._socket.send_frame(frame, WSMsgType.TEXT)
            else:
                async with asyncio.timeout(self._limits.write_timeout):
                    await self._socket.send_frame(frame, WSMsgType.TEXT)
        except TimeoutError:
            self._meter.refused("websocket", "slow_peer")
            if self._request.transport is not None:
                self._request.transport.abort()
        except (ConnectionError, RuntimeError):
            pass  # aiohttp: closing, or closed
        else:
            return
        raise SupervisorError(ErrorCode.CONNECTION_LOST, "the peer is gone")

    def _has_room(self, frame: bytes) -> bool:
        """Whether the frame is taken without a wait. Then it needs no timeout, which costs more
        than the frame itself."""
        transport = self._request.transport
        if transport is None or len(frame) > UNTIMED:
            return False
        return transport.get_write_buffer_size() == 0

    async def read(self, connection: Connection) -> None:
        """Read until the peer is gone, or has to go."""
        while True:
            await connection.relief()
            message: WSMessage = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                connection.feed(message.data)
            elif message.type is WSMsgType.BINARY:
                self._meter.refused("websocket", "junk")
                await self._socket.close(
                    code=WSCloseCode.UNSUPPORTED_DATA, message=b"frames are text"
                )
                return
            else:
                # Closed, or closed by aiohttp for an error of the peer: 1009 past max_msg_size.
                if getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                    self._meter.refused("websocket", ErrorCode.TOO_LARGE.value)
                return
