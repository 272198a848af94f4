"""The CONNECT proxy: tunnels to the hosts that the settings allow, and to no others.

What goes through a tunnel is not looked at. The name is resolved here, once, and the connection is
made to the very address that was checked, so that a second answer of the name cannot change it.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from supervisor.credentials.addresses import is_public
from supervisor.credentials.routes import Denied
from supervisor.credentials.tally import MAX_TUNNELS, Outcome, Tally
from supervisor.logs import get_logger
from supervisor.settings_groups import ProxySettings

MAX_HEAD: Final = 8 * 1024
HEAD_SECONDS: Final = 20.0
"""For the head to come, and for the name to be resolved."""
_CHUNK: Final = 64 * 1024
_MAX_ADDRESSES: Final = 4
_LINE: Final = re.compile(
    rb"(?P<method>[!-~]{1,32}) (?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    rb":(?P<port>[0-9]{1,5}) HTTP/1\.[01]"
)
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name, for TCP to that port; OSError if there are none."""
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[str, int], Awaitable[Stream]]
"""A connection to an address; OSError."""

log = get_logger()


class Tunnels:
    """Serves CONNECT for all containers. Tests give a `resolve` and a `dial` of their own."""

    def __init__(
        self,
        settings: ProxySettings,
        *,
        resolve: Resolve | None = None,
        dial: Dial | None = None,
    ) -> None:
        self._allowed = [entry.rpartition(":") for entry in settings.connect_allow]
        self._connect_seconds = settings.connect_timeout_seconds
        self._idle_seconds = settings.idle_timeout_seconds
        self._resolve = resolve or _resolved
        self._dial = dial or asyncio.open_connection

    async def listen(self, tally: Tally, listener: socket.socket) -> None:
        """Serve one container's listener until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listener)
                except OSError as error:
                    # No descriptor to be had: others may give some back.
                    log.warning("tunnel_not_accepted", error=str(error))
                    await asyncio.sleep(1.0)
                    continue
                if tally.active_tunnels >= MAX_TUNNELS:
                    accepted.close()
                    tally.count(Outcome.TUNNEL_REFUSED)
                    continue
                group.create_task(self._serve(tally, accepted))

    async def _serve(self, tally: Tally, accepted: socket.socket) -> None:
        with tally.tunnel():
            client = await asyncio.open_connection(sock=accepted)
            try:
                await self._tunnel(tally, client)
            except Denied as denied:
                tally.count(Outcome.TUNNEL_REFUSED)
                await _refuse(client[1], denied)
            except Exception as error:  # noqa: BLE001  # the others go on
                log.warning("tunnel_failed", kind=type(error).__name__, error=str(error))
            finally:
                # Not waited for: a peer that takes nothing would keep it.
                client[1].transport.abort()

    async def _tunnel(self, tally: Tally, client: Stream) -> None:
        upstream = await self._established(client)
        try:
            tally.count(Outcome.TUNNEL)
            client[1].write(_ESTABLISHED)
            await _Tunnel(self._idle_seconds).carry(client, upstream)
        except* OSError:
            pass  # an end went away, or nobody said anything for too long
        finally:
            upstream[1].transport.abort()

    async def _established(self, client: Stream) -> Stream:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                host, port = await _asked(client[0])
                self._check(host, port)
                addresses = await self._addresses(host, port)
        except TimeoutError:
            raise Denied(408, "tunnel_timeout", "the request took too long") from None
        for address in addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._connect_seconds):
                    return await self._dial(address, port)
        raise Denied(502, "host_unreachable", f"{host} cannot be reached")

    def _check(self, host: str, port: int) -> None:
        for pattern, _, allowed_port in self._allowed:
            if int(allowed_port) != port:
                continue
            # *.example.org is no example.org
            if pattern == host or (pattern.startswith("*.") and host.endswith(pattern[1:])):
                return
        raise Denied(403, "host_not_allowed", f"{host}:{port} is not in proxy.connect_allow")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await self._resolve(host, port)
        except OSError:
            raise Denied(502, "host_unknown", f"{host} has no address") from None
        public = [address for address in found if is_public(address)]
        if not public:
            raise Denied(403, "address_not_allowed", f"{host} is not on the public internet")
        return public[:_MAX_ADDRESSES]


class _Tunnel:
    """Bytes both ways, until both ends have said their last, or nobody has for too long."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._last = 0.0

    async def carry(self, one: Stream, other: Stream) -> None:
        self._last = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(one[0], other[1]))
            group.create_task(self._pump(other[0], one[1]))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._read(reader):
            writer.write(data)
            async with asyncio.timeout(self._idle_seconds):
                await writer.drain()
        if writer.can_write_eof():
            # The other direction goes on.
            writer.write_eof()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes. Raises TimeoutError when neither direction has had any."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._last + self._idle_seconds):
                    data = await reader.read(_CHUNK)
            except TimeoutError:
                if self._last + self._idle_seconds > loop.time():
                    continue
                raise
            self._last = loop.time()
            return data


async def _asked(reader: asyncio.StreamReader) -> tuple[str, int]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        head = b" " * (MAX_HEAD + 1)
    except asyncio.IncompleteReadError:
        raise Denied(400, "no_request", "the request is not whole") from None
    if len(head) > MAX_HEAD:
        raise Denied(431, "head_too_large", f"the head may have {MAX_HEAD} bytes")
    match = _LINE.fullmatch(head.partition(b"\r\n")[0])
    if match is None or match["method"] != b"CONNECT":
        raise Denied(405, "connect_only", "only CONNECT host:port is served here", Allow="CONNECT")
    port = int(match["port"])
    if not 0 < port <= 65_535:
        raise Denied(400, "no_port", "the port must be between 1 and 65535")
    return match["host"].decode("ascii").strip("[]").lower().rstrip("."), port


async def _resolved(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def _refuse(writer: asyncio.StreamWriter, denied: Denied) -> None:
    body = denied.body()
    headers = {**denied.headers, "Content-Type": "application/json", "Connection": "close"}
    lines = [f"HTTP/1.1 {denied.status} Refused", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(HEAD_SECONDS):
            writer.close()
            await writer.wait_closed()
