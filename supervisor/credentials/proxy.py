"""The proxy process: it holds the credential and the containers' listeners, and no other state.

    seat ▶ upstream ▶ control socket ▶ (SIGTERM, `End`, or nobody needs it) ▶ containers ▶ seat

Supervisors come and go on the control socket; what is served stays.
"""

import asyncio
import contextlib
import os
import resource
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from supervisor.clock import Clock
from supervisor.credentials import messages
from supervisor.credentials.connect import Tunnels
from supervisor.credentials.forward import Forwarder
from supervisor.credentials.holding import Holdings
from supervisor.credentials.key import Key, key_path
from supervisor.credentials.packets import Channel, Packet, trusted
from supervisor.credentials.seat import Seat
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.settings_groups import ProxySettings

MAX_SUPERVISORS: Final = 32
"""Connections to the control socket."""
LOG_BYTES: Final = 4 << 20
_ROUND: Final = 1.0
"""Seconds between two looks at whether anybody needs it."""

log = get_logger()
_DECODE: Final = msgspec.json.Decoder(messages.Request)


class Proxy:
    """`await Proxy(...).run(told)` serves until `told` is set, or for want of use.

    `idle_seconds`: end once no supervisor has been connected and no container served for so long;
    None: never. Raises what `Seat` and `key_path` raise.
    """

    def __init__(
        self,
        settings: ProxySettings,
        path: Path,
        environment: Mapping[str, str],
        clock: Clock,
        *,
        idle_seconds: float | None = None,
    ) -> None:
        self._settings = settings
        self._key = Key(key_path(settings, environment))
        self._seat = Seat(path)
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._connected = 0
        self._holdings: Holdings
        self._told: asyncio.Event

    async def run(self, told: asyncio.Event) -> None:
        """Serve. Cancelling it ends it as well."""
        self._told = told
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve())
                await told.wait()
                serving.cancel()
        finally:
            self._seat.leave()
            log.info("proxy_ended")

    async def _serve(self) -> None:
        log.info("proxy_serves", base_url=self._settings.base_url, key_present=self._key.present())
        async with Forwarder(self._settings, self._key) as forwarder:
            try:
                async with asyncio.TaskGroup() as group:
                    self._holdings = Holdings(forwarder, Tunnels(self._settings), group)
                    group.create_task(self._rounds())
                    await self._accept(group)
            finally:
                await self._holdings.close_all()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._seat.socket)
            except OSError as error:
                log.warning("control_not_accepted", error=str(error))
                await self._clock.sleep(_ROUND)
                continue
            group.create_task(self._attend(accepted))

    async def _attend(self, accepted: socket.socket) -> None:
        """One supervisor, or whoever it is."""
        channel = Channel(accepted)
        self._connected += 1
        try:
            if not trusted(channel.peer_uid):
                raise SupervisorError(ErrorCode.FORBIDDEN, "this socket is its owner's alone")
            if self._connected > MAX_SUPERVISORS:
                raise SupervisorError(ErrorCode.OVERLOADED, "too many are connected")
            while (packet := await channel.receive()) is not None:
                with packet:
                    answer = await self._answer(packet)
                channel.send(msgspec.json.encode(answer))
        except SupervisorError as error:
            log.info("control_closed", code=error.code, error=error.message)
            with contextlib.suppress(SupervisorError):
                channel.send(msgspec.json.encode(_refused(error)))
        finally:
            self._connected -= 1
            channel.close()

    async def _answer(self, packet: Packet) -> messages.Answer:
        try:
            return await self._carry_out(_DECODE.decode(packet.data()), packet)
        except SupervisorError as error:
            return _refused(error)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return messages.Refused(ErrorCode.BAD_REQUEST, f"this is no request: {error}")
        except OSError as error:
            return messages.Refused(ErrorCode.MODEL_UNREACHABLE, f"the system refuses: {error}")

    async def _carry_out(self, request: messages.Request, packet: Packet) -> messages.Answer:
        match request:
            case messages.Hello():
                return self._welcome()
            case messages.Open():
                await self._holdings.open(request, packet.take())
            case messages.Close():
                await self._holdings.close(request.marker)
            case messages.List():
                return self._holdings.page(request.after)
            case messages.End():
                self._told.set()
        return messages.Done()

    def _welcome(self) -> messages.Welcome:
        return messages.Welcome(
            protocol=messages.PROTOCOL,
            pid=os.getpid(),
            base_url=self._settings.base_url,
            credential=self._key.present(),
            settings=messages.fingerprint(self._settings),
            on_demand=self._idle_seconds is not None,
            served=len(self._holdings),
            active=self._holdings.active,
            requests=self._holdings.requests(),
            key_source=messages.key_source(self._settings),
            connect_allow=messages.told_hosts(self._settings),
        )

    async def _rounds(self) -> None:
        """Look now and then whether anybody needs it still, and how long the log has grown."""
        since = self._clock.monotonic()
        while True:
            await self._clock.sleep(_ROUND)
            _bound_log()
            if self._connected or len(self._holdings):
                since = self._clock.monotonic()
            if self._idle_seconds is None or self._clock.monotonic() - since < self._idle_seconds:
                continue
            log.info("proxy_unused")
            self._told.set()


def _refused(error: SupervisorError) -> messages.Refused:
    return messages.Refused(error.code, error.message)


def set_limits() -> None:
    """Descriptors, as many as are granted: a few for each container, two for each request. And no
    core: the key would be in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bound_log() -> None:
    """Standard error that is a file is emptied when it has grown."""
    with contextlib.suppress(OSError):
        found = os.fstat(2)
        if stat.S_ISREG(found.st_mode) and found.st_size > LOG_BYTES:
            os.ftruncate(2, 0)
