"""The containers the proxy serves: listeners kept, and given up when the container has ended."""

import asyncio
import contextlib
import logging
import os
import socket
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from aiohttp import web

from supervisor.credentials.connect import Tunnels
from supervisor.credentials.forward import Forwarder
from supervisor.credentials.messages import PAGE, Listed, Open, Served
from supervisor.credentials.netns import ended
from supervisor.credentials.tally import Tally
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger

MAX_CONTAINERS: Final = 10_000
MAX_CONNECTIONS: Final = 128
"""Of one container to the model's port: more than requests, for they are kept alive."""
MAX_LINE: Final = 8 * 1024
MAX_FIELD: Final = 16 * 1024
"""Bytes of one header: Codex's largest says which repositories the turn is about."""
MAX_HEADERS: Final = 64
"""Codex sends a dozen. With the above, a megabyte of heads a connection is the worst there is."""
_IDLE_CONNECTION: Final = 120.0
_LINGER: Final = 1.0
_END_SECONDS: Final = 1.0

log = get_logger()
# Of what hostile clients do wrong there is no end: it is counted, and written nowhere.
_silent = logging.getLogger("codex-supervisor.proxy")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class _Excess(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Holding:
    """One container that is served. It owns its descriptors from the start on."""

    def __init__(self, told: Open, pidfd: int, listeners: list[socket.socket]) -> None:
        self.told = told
        self.tally = Tally()
        self.pidfd = pidfd
        self._listeners = listeners
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._tunnels: asyncio.Task[None] | None = None

    async def serve(self, forwarder: Forwarder, tunnels: Tunnels, group: asyncio.TaskGroup) -> None:
        """Answer on the listeners from now on."""
        model, *connect = self._listeners
        self._http = web.Server(
            partial(forwarder.handle, self.tally),
            handler_cancellation=True,
            access_log=None,
            logger=_silent,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
            keepalive_timeout=_IDLE_CONNECTION,
            lingering_time=_LINGER,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=model)
        for listener in connect:
            self._tunnels = group.create_task(tunnels.listen(self.tally, listener))

    def _connection(self) -> asyncio.Protocol:
        assert self._http is not None
        full = len(self._http.connections) >= MAX_CONNECTIONS
        return _Excess() if full else self._http()

    async def stop(self) -> None:
        """Close all of it, connections included. Idempotent."""
        if self._server is not None:
            self._server.close()
        if self._tunnels is not None:
            self._tunnels.cancel()
            await asyncio.wait([self._tunnels])
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(_END_SECONDS)
        for listener in self._listeners:
            listener.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def shown(self) -> Served:
        """As `List` tells it."""
        return Served(
            project=self.told.project,
            generation=self.told.generation,
            marker=self.told.marker,
            active=self.tally.active,
            requests=dict(self.tally.requests),
        )


class Holdings:
    """All of them, by marker. Owned by one event loop; `group` runs what they need."""

    def __init__(self, forwarder: Forwarder, tunnels: Tunnels, group: asyncio.TaskGroup) -> None:
        self._forwarder = forwarder
        self._tunnels = tunnels
        self._group = group
        self._held: dict[str, Holding] = {}
        self._past: dict[str, int] = {}
        """Requests of those that were given up, by outcome."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def active(self) -> int:
        """Requests and tunnels under way."""
        return sum(holding.tally.active for holding in self._held.values())

    def requests(self) -> dict[str, int]:
        """By outcome, of all there ever were."""
        total = dict(self._past)
        for holding in self._held.values():
            _add(total, holding)
        return total

    async def open(self, told: Open, descriptors: list[int]) -> None:
        """Serve it, unless it is served already. Takes the descriptors, whatever comes of it.

        `bad_request` for descriptors that are not what they should be.
        """
        pidfd, listeners = _taken(descriptors)
        held = self._held.get(told.marker)
        if held is not None and not ended(held.pidfd):
            _close(pidfd, listeners)
            return
        await self.close(told.marker)
        if len(self._held) >= MAX_CONTAINERS:
            _close(pidfd, listeners)
            raise SupervisorError(ErrorCode.OVERLOADED, f"{MAX_CONTAINERS} containers are served")
        holding = Holding(told, pidfd, listeners)
        self._held[told.marker] = holding
        try:
            await holding.serve(self._forwarder, self._tunnels, self._group)
        except BaseException:
            await self.close(told.marker)
            raise
        if self._held.get(told.marker) is not holding:
            # Closed meanwhile.
            await holding.stop()
            return
        asyncio.get_running_loop().add_reader(pidfd, self._ended, holding)
        log.info("container_served", project=told.project, generation=told.generation)

    async def close(self, marker: str) -> None:
        """Serve it no longer. Unknown ones are none."""
        holding = self._held.pop(marker, None)
        if holding is not None:
            asyncio.get_running_loop().remove_reader(holding.pidfd)
            _add(self._past, holding)
            await holding.stop()
            told = holding.told
            log.info("container_given_up", project=told.project, generation=told.generation)

    async def close_all(self) -> None:
        """At the end: `group` takes no tasks any more."""
        for holding in self._held.values():
            asyncio.get_running_loop().remove_reader(holding.pidfd)
        # At once: each may take a second, and their successor waits for us.
        await asyncio.gather(*(self.close(marker) for marker in list(self._held)))

    def page(self, after: str) -> Listed:
        """The next ones after that marker. One that has ended is none, though it is not yet closed:
        its marker may be another's by now."""
        held = [self._held[marker] for marker in sorted(self._held) if marker > after]
        live = list(islice((each for each in held if not ended(each.pidfd)), PAGE + 1))
        return Listed(containers=[each.shown() for each in live[:PAGE]], more=len(live) > PAGE)

    def _ended(self, holding: Holding) -> None:
        asyncio.get_running_loop().remove_reader(holding.pidfd)
        self._group.create_task(self._close_ended(holding))

    async def _close_ended(self, holding: Holding) -> None:
        if self._held.get(holding.told.marker) is holding:
            await self.close(holding.told.marker)


def _add(total: dict[str, int], holding: Holding) -> None:
    for outcome, count in holding.tally.requests.items():
        total[outcome] = total.get(outcome, 0) + count


def _taken(descriptors: list[int]) -> tuple[int, list[socket.socket]]:
    """The pidfd and the listeners; all are closed if one is not what it should be."""
    listeners: list[socket.socket] = []
    left = list(descriptors)
    try:
        if not 2 <= len(left) <= 3:
            raise _bad(f"there must be two or three descriptors, not {len(left)}")
        if not _is_pidfd(left[0]):
            raise _bad("the first descriptor must be a pidfd")
        while len(left) > 1:
            listeners.append(_listener(left.pop()))
    except BaseException:
        for each in listeners:
            each.close()
        for descriptor in left:
            os.close(descriptor)
        raise
    return left[0], listeners[::-1]


def _listener(descriptor: int) -> socket.socket:
    """Owns the descriptor from here on."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise _bad("a descriptor is no socket") from None
    kind = (sock.family, sock.type)
    listens = kind == (socket.AF_INET, socket.SOCK_STREAM) and sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    )
    if not listens or sock.getsockname()[0] != "127.0.0.1":
        sock.close()
        raise _bad("a descriptor is no socket that listens on 127.0.0.1")
    sock.setblocking(False)
    return sock


def _is_pidfd(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        return any(line.startswith("Pid:") for line in told.splitlines())
    return False


def _close(pidfd: int, listeners: list[socket.socket]) -> None:
    os.close(pidfd)
    for each in listeners:
        each.close()


def _bad(what: str) -> SupervisorError:
    return SupervisorError(ErrorCode.BAD_REQUEST, what)
