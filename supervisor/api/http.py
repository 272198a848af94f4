"""The HTTP side: liveness, readiness, metrics, and the door to the WebSocket.

    GET /livez      200 while the process can answer at all
    GET /readyz     200 or 503 with the reasons
    GET /metrics    Prometheus' text; on a loopback address no token is asked for
    GET /v1/rpc     the WebSocket of the RPC

Every error has the same JSON body: {"error": {code, message, hint, retryable}}.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from supervisor.api.authentication import Gate, is_loopback
from supervisor.api.websocket import WebSocketPeers
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.metrics import CONTENT_TYPE
from supervisor.rpc.meter import RpcMeter

BACKLOG = 128
GRACE = 2.0
"""Seconds that open requests get when the server stops."""
STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.METHOD_UNKNOWN: 404,
    ErrorCode.OVERLOADED: 503,
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger(__name__)


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the supervisor can serve, and if not, why."""

    ready: bool
    reasons: list[str] = []


class HttpServer:
    """Listens on one TCP address: `bind`, then run `serve` in a task."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        gate: Gate,
        peers: WebSocketPeers,
        readiness: Callable[[], Readiness],
        exposition: Callable[[], bytes],
        meter: RpcMeter,
    ) -> None:
        self._host = host
        self._port = port
        self._gate = gate
        self._peers = peers
        self._readiness = readiness
        self._exposition = exposition
        self._meter = meter
        self._socket: socket.socket | None = None

    def bind(self) -> tuple[str, int]:
        """Take the address; return it, with the port chosen where 0 was asked for.

        Raises `address_in_use`, or `settings_invalid` for what is no address of this computer.
        """
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            bound = socket.socket(family, kind, proto)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise self._unusable(error) from None
        self._socket = bound
        name = bound.getsockname()
        return str(name[0]), int(name[1])

    def _unusable(self, error: OSError) -> SupervisorError:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        return SupervisorError(
            ErrorCode.ADDRESS_IN_USE if taken else ErrorCode.SETTINGS_INVALID,
            f"cannot listen on {self._host} port {self._port}: {error.strerror or error}",
        )

    async def serve(self) -> None:
        """Serve until cancelled."""
        assert self._socket is not None, "bind first"
        bound, self._socket = self._socket, None
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=GRACE
        )
        await runner.setup()
        try:
            await web.SockSite(runner, bound).start()
            await asyncio.get_running_loop().create_future()
        finally:
            await runner.cleanup()
            bound.close()

    def close(self) -> None:
        """Give back an address that was bound and never served. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guarded])
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/v1/rpc", self._rpc)
        application.on_shutdown.append(self._goodbye)
        return application

    async def _goodbye(self, application: web.Application) -> None:  # noqa: ARG002
        await self._peers.close()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            self._gate.check_host(request.headers)
            return await handler(request)
        except SupervisorError as error:
            junk = error.code is ErrorCode.BAD_REQUEST
            self._meter.refused("http", "junk" if junk else error.code.value)
            return _failed(error, STATUS.get(error.code, 500))
        except web.HTTPException as error:
            wanted = SupervisorError(ErrorCode.METHOD_UNKNOWN, f"{error.status} {error.reason}")
            return _failed(wanted, error.status)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  # the last wall: no traceback for the peer
            _log.exception("HTTP request failed", action="http_internal", path=request.path)
            return _failed(SupervisorError(ErrorCode.INTERNAL, "the request failed"), 500)

    async def _livez(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        state = self._readiness()
        body = msgspec.json.encode(state)
        return web.Response(
            body=body, status=200 if state.ready else 503, content_type="application/json"
        )

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        if not is_loopback(self._host):
            self._gate.admit(request.headers, _source(request))
        return web.Response(body=self._exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def _rpc(self, request: web.Request) -> web.StreamResponse:
        self._gate.check_origin(request.headers)
        principal = self._gate.admit(request.headers, _source(request))
        self._peers.check_room()
        return await self._peers.serve(request, principal)


def _source(request: web.Request) -> str:
    return request.remote or "unknown"


def _failed(error: SupervisorError, status: int) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": error.as_dict()}, status=status, headers=headers)
