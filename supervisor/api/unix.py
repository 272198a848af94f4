"""The RPC on a unix socket: one frame a line, for programs of the same person on this computer.

Who a peer is, the kernel says (SO_PEERCRED); nothing it sends can change that.
"""

import asyncio
import contextlib
import os
import pwd
import socket
import stat
import struct
from collections import deque
from pathlib import Path
from typing import cast

import structlog

from supervisor.api.connection import Connection, Limits
from supervisor.buses.frames import encode_error
from supervisor.buses.subjects import ERROR
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import LOCAL_ACCOUNT, Principal
from supervisor.ports.bus import Service
from supervisor.protocol.framing import LineFramer, Oversized
from supervisor.rpc.meter import RpcMeter

BACKLOG = 128
WRITE_BUFFER = 256 * 1024
"""Bytes written and not yet taken by the kernel, past which writers wait."""
GATHERED = 64 * 1024
"""Bytes of frames that are written as one, at most about."""
MAX_PATH = 107
"""Bytes of a socket's path: sun_path, less its NUL."""
_UCRED = struct.Struct("iII")

_log = structlog.get_logger(__name__)


class UnixServer:
    """Serves `service` on a socket file of mode 0600: `bind`, then run `serve` in a task.

    Cancelling `serve` ends every connection and removes the file.
    """

    def __init__(
        self, path: Path, service: Service, limits: Limits, meter: RpcMeter, *, version: str
    ) -> None:
        self.service = service
        self.limits = limits
        self.meter = meter
        self._path = path
        self._version = version
        self._socket: socket.socket | None = None
        self._inode = 0
        self._group: asyncio.TaskGroup | None = None
        self._connected = 0

    def bind(self) -> None:
        """Take the address. Raises `address_in_use` when somebody answers there, or when what is
        there is no socket; a file that nobody answers on is replaced."""
        _clear(self._path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(str(self._path))
            # Nobody can connect before listen(): the mode is right from the first connection on.
            self._path.chmod(0o600)
            self._inode = self._path.stat().st_ino
            bound.listen(BACKLOG)
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise SupervisorError(
                ErrorCode.ADDRESS_IN_USE,
                f"cannot listen on {self._path}: {error.strerror or error}",
            ) from None
        self._socket = bound

    async def serve(self) -> None:
        """Serve until cancelled."""
        assert self._socket is not None, "bind first"
        bound, self._socket = self._socket, None
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Peer(self), sock=bound, start_serving=False)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await server.start_serving()
                await loop.create_future()
        finally:
            self._group = None
            server.close()
            bound.close()
            self._remove()

    def close(self) -> None:
        """Give back an address that was bound and never served. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._remove()

    def check_room(self) -> None:
        """Raises `overloaded` when no connection more may be had."""
        if self._group is None or self._connected >= self.limits.connections:
            raise SupervisorError(
                ErrorCode.OVERLOADED, f"{self.limits.connections} connections are open already"
            )

    def join(self, peer: "_Peer", connection: Connection) -> None:
        """Serve a connection there is room for."""
        assert self._group is not None
        self._connected += 1
        self.meter.connection_opened("unix")
        self._group.create_task(self._run(peer, connection))

    async def _run(self, peer: "_Peer", connection: Connection) -> None:
        try:
            await connection.run(self._version, peer.read)
        except Exception:  # noqa: BLE001  # one connection must not end the others
            _log.exception("connection failed", action="rpc_connection_internal")
        finally:
            self._connected -= 1
            self.meter.connection_closed("unix")
            peer.abort()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


class _Peer(asyncio.Protocol):
    """One connection's bytes."""

    def __init__(self, server: UnixServer) -> None:
        self._server = server
        self._framer = LineFramer(server.limits.max_frame_bytes)
        self._waiting: deque[bytes | Oversized] = deque()
        """Lines read and not yet fed: of one read at most, for reading stops meanwhile."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._wake = asyncio.Event()
        """Reading has to go on later, or the peer is gone."""
        self._reading = False
        self._lost = False
        self._gathering = False
        """Something was written in this turn of the loop."""
        self._gathered: list[bytes] = []
        """Frames of this turn of the loop, but the first."""
        self._gathered_bytes = 0
        self._transport: asyncio.Transport
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own type, not isinstance: uvloop's transports are no subclasses of it.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        # Nothing is fed before the greeting is written and the connection's tasks can run.
        self._transport.pause_reading()
        try:
            principal = _principal(transport.get_extra_info("socket"))
            self._server.check_room()
        except SupervisorError as error:
            self._server.meter.refused("unix", error.code.value)
            self._transport.write(encode_error(ERROR, 0, error) + b"\n")
            self._transport.close()
            return
        self.connection = Connection(
            principal,
            self._server.service,
            self._send,
            self._server.limits,
            meter=self._server.meter,
            transport="unix",
        )
        self._server.join(self, self.connection)

    def data_received(self, data: bytes) -> None:
        self._waiting.extend(self._framer.feed(data))
        if self._reading:
            self._hand_over()

    def _hand_over(self) -> None:
        """Feed what waits, until the connection chokes."""
        connection, waiting = self.connection, self._waiting
        assert connection is not None
        while waiting:
            if connection.choked:
                self._reading = False
                self._transport.pause_reading()
                self._wake.set()
                return
            line = waiting.popleft()
            if isinstance(line, Oversized):
                error = too_large(line.size, self._server.limits)
                connection.refuse(error, None, ErrorCode.TOO_LARGE.value)
            else:
                connection.feed(line)

    async def read(self) -> None:
        """Read until the peer is gone."""
        assert self.connection is not None
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.connection.relief()
            if self._lost:
                return
            self._reading = True
            self._hand_over()
            if self._reading:
                self._transport.resume_reading()

    async def _send(self, frame: bytes) -> None:
        if self._lost or self._transport.is_closing():
            raise _gone()
        self._write(frame)
        if not self._writable.is_set():
            await self._written()

    def _write(self, frame: bytes) -> None:
        """The first frame of a turn of the loop goes out at once, those that follow as one: a
        write for each line of a stream was a quarter of all that it cost."""
        if not self._gathering:
            self._gathering = True
            asyncio.get_running_loop().call_soon(self._flush)
            self._transport.write(frame + b"\n")
            return
        self._gathered.append(frame)
        self._gathered_bytes += len(frame)
        if self._gathered_bytes > GATHERED:
            self._flush()

    def _flush(self) -> None:
        frames, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._gathering = False
        if frames and not self._transport.is_closing():
            self._transport.write(b"\n".join([*frames, b""]))

    async def _written(self) -> None:
        try:
            async with asyncio.timeout(self._server.limits.write_timeout):
                await self._writable.wait()
        except TimeoutError:
            if not self._transport.is_closing():
                self._server.meter.refused("unix", "slow_peer")
            self.abort()
        if self._lost or self._transport.is_closing():
            raise _gone()

    def abort(self) -> None:
        """Drop the connection, whatever the peer has not taken."""
        self._flush()
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._writable.set()
        if self.connection is not None:
            self.connection.close()
        self._wake.set()


def too_large(size: int, limits: Limits) -> SupervisorError:
    """The error for a frame past the limit. Bytes."""
    return SupervisorError(
        ErrorCode.TOO_LARGE, f"a frame of {size} bytes; the limit is {limits.max_frame_bytes}"
    )


def _gone() -> SupervisorError:
    return SupervisorError(ErrorCode.CONNECTION_LOST, "the peer is gone")


def _principal(peer: socket.socket) -> Principal:
    """Whom the kernel says the peer is. `forbidden` but for this user and root."""
    pid, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid not in (os.geteuid(), 0):
        raise SupervisorError(ErrorCode.FORBIDDEN, "this socket is its owner's alone")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Principal(
        account=LOCAL_ACCOUNT,
        principal=name,
        source=f"unix:uid={uid},pid={pid}",
        client=_program(pid),
    )


def _program(pid: int) -> str:
    """The peer's command name: a claim, for a process names itself as it likes."""
    try:
        comm = Path(f"/proc/{pid}/comm").read_text(errors="replace")
    except OSError:
        return "unknown"
    return "".join(c for c in comm.strip()[:32] if c.isprintable()) or "unknown"


def _clear(path: Path) -> None:
    """Remove a socket file nobody answers on. Raises `address_in_use`, `settings_invalid`."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise SupervisorError(
            ErrorCode.SETTINGS_INVALID,
            f"the socket's path has more than {MAX_PATH} bytes: {path}",
            hint="Set a shorter state_dir: the socket lies in it.",
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SupervisorError(
            ErrorCode.ADDRESS_IN_USE, f"{path} is no socket", hint="Move the file away."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # EAGAIN: its backlog is full, so somebody is there. EACCES: not ours to judge.
            _log.debug("probe", action="unix_probe", error=str(error))
    raise SupervisorError(ErrorCode.ADDRESS_IN_USE, f"a supervisor answers on {path}")
