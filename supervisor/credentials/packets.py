"""Packets on a unix socket, descriptors beside them.

SOCK_SEQPACKET keeps a message, its end, and the descriptors that belong to it together. A `Channel`
belongs to one event loop, and one task reads it.
"""

import array
import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from supervisor.errors import ErrorCode, SupervisorError

KIND: Final = socket.SOCK_SEQPACKET
MAX_PACKET: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 3
MAX_PATH: Final = 107
"""Bytes of a socket's path: sun_path, less its NUL."""

_UCRED: Final = struct.Struct("iII")
_ITEM: Final = array.array("i").itemsize


class Packet:
    """One message as it came. Leaving it closes its descriptors, but those that were taken."""

    def __init__(self, data: bytes, descriptors: Sequence[int], *, whole: bool) -> None:
        self._data = data
        self._descriptors = list(descriptors)
        self._whole = whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for descriptor in self.take():
            os.close(descriptor)

    def data(self) -> bytes:
        """Raises `too_large`, also for more descriptors than `MAX_DESCRIPTORS`."""
        if not self._whole:
            raise SupervisorError(ErrorCode.TOO_LARGE, "the message or its descriptors are cut off")
        return self._data

    def take(self) -> list[int]:
        """The descriptors; whoever takes them closes them."""
        taken, self._descriptors = self._descriptors, []
        return taken


class Channel:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.peer_pid, self.peer_uid, _ = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )

    async def receive(self) -> Packet | None:
        """The next one; None when the peer is gone, or sends an empty one."""
        while True:
            try:
                return self._receive()
            except BlockingIOError:
                await self._readable()
            except OSError:
                return None

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """`connection_lost` if the peer is gone, or takes nothing any more."""
        beside = array.array("i", descriptors)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, beside)] if descriptors else []
        try:
            self._socket.sendmsg([data], control, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise SupervisorError(
                ErrorCode.CONNECTION_LOST, f"the other end is gone: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def _receive(self) -> Packet | None:
        data, control, flags, _ = self._socket.recvmsg(
            MAX_PACKET, socket.CMSG_SPACE(MAX_DESCRIPTORS * _ITEM), socket.MSG_CMSG_CLOEXEC
        )
        found = array.array("i")
        for level, kind, value in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(value[: len(value) - len(value) % _ITEM])
        cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(found) > MAX_DESCRIPTORS
        packet = Packet(data, found, whole=not cut)
        if data:
            return packet
        with packet:
            return None

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.add_reader(self._socket, woken.set)
        try:
            await woken.wait()
        finally:
            loop.remove_reader(self._socket)


def check_path(path: Path) -> None:
    """`settings_invalid` for a path no socket can have."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise SupervisorError(
            ErrorCode.SETTINGS_INVALID,
            f"the socket's path has more than {MAX_PATH} bytes: {path}",
            hint="Set a shorter proxy.socket, or a shorter state_dir.",
        )


def dial(path: Path) -> Channel:
    """Connect. `connection_lost` if nobody answers, `forbidden` if somebody else does."""
    check_path(path)
    sock = socket.socket(socket.AF_UNIX, KIND)
    sock.setblocking(False)
    try:
        sock.connect(str(path))
        channel = Channel(sock)
    except OSError as error:
        sock.close()
        raise SupervisorError(
            ErrorCode.CONNECTION_LOST, f"nobody answers on {path}: {error.strerror}"
        ) from error
    if not trusted(channel.peer_uid):
        channel.close()
        raise SupervisorError(
            ErrorCode.FORBIDDEN, f"uid {channel.peer_uid} answers on {path}, not the proxy's"
        )
    return channel


def trusted(uid: int) -> bool:
    """Whether the peer is this user or root."""
    return uid in (os.geteuid(), 0)
