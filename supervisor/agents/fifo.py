"""The writing end of an app-server's stdin.

One writer per FIFO, in one event loop; any number of tasks may write lines at once, and lines go
out whole, in the order of the calls. Every write(2) is at most PIPE_BUF bytes, hence atomic, and
ends at a character boundary: whatever moment the supervisor is killed at, what is left in the pipe
is valid UTF-8, and the newline a successor writes first (`write_newline`) ends it harmlessly.
"""

import asyncio
import errno
import os
from pathlib import Path
from select import PIPE_BUF

from supervisor.agents.spool import open_fifo
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.framing import utf8_chunks


class FifoWriter:
    """Raises `agent_restarted` from anything once nobody reads, or after `close`."""

    def __init__(self, path: Path, *, torn: bool = False) -> None:
        self._fd = open_fifo(path)
        self._lock = asyncio.Lock()
        self._queued = 0
        """Lines waiting or being written; the lock alone does not show those it is handed to."""
        self._torn = torn
        """A line was left half written, perhaps by a predecessor: the next one is preceded by a
        newline, which is harmless where it was not."""
        self._writable: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        """Lines that wait for room in the pipe."""
        return self._queued

    def try_write_line(self, line: bytes) -> bool:
        """Write at once if the line fits in one write and nothing waits; False: `write_line` it."""
        if self._queued or self._torn or len(line) >= PIPE_BUF:
            return False
        return self._write(_ended(line)) > 0

    async def write_line(self, line: bytes) -> None:
        """Write `line`, which has no newline and is valid UTF-8: the caller has checked.

        Waits while the pipe is full, for as long as the app-server does not read: set a timeout.
        Cancelled, the line may have been written or not. If it was cut in the middle, the next
        line is preceded by a newline, and what was cut is not JSON, which Codex ignores.
        """
        if self.try_write_line(line):
            return
        await self._write_pieces(_ended(line))

    async def write_newline(self) -> None:
        """End whatever a predecessor left half written. An empty line means nothing to Codex."""
        await self._write_pieces(b"\n")

    def close(self) -> None:
        """Let go of the FIFO; writers that wait fail. Idempotent."""
        if self._fd < 0:
            return
        if self._writable is not None:
            # Whoever waits removes the descriptor from the loop before it is closed here.
            asyncio.get_running_loop().remove_writer(self._fd)
            if not self._writable.done():
                self._writable.set_result(None)
        os.close(self._fd)
        self._fd = -1

    async def _write_pieces(self, ended: bytes) -> None:
        self._queued += 1
        try:
            async with self._lock:
                if self._torn:
                    await self._write_whole(memoryview(b"\n"))
                    self._torn = False
                for piece in _pieces(ended):
                    await self._write_whole(piece)
                    self._torn = True
                self._torn = False
        finally:
            self._queued -= 1

    async def _write_whole(self, piece: memoryview) -> None:
        while self._write(piece) == 0:
            await self._wait_writable()

    def _write(self, piece: bytes | memoryview) -> int:
        """All of `piece`, or nothing (0) while the pipe is full."""
        if self._fd < 0:
            raise SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server's stdin is closed")
        try:
            return os.write(self._fd, piece)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            raise SupervisorError(
                ErrorCode.AGENT_RESTARTED, "the app-server ended before it read the request"
            ) from error

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        fd = self._fd
        future = self._writable = loop.create_future()
        loop.add_writer(fd, _wake, future)
        try:
            await future
        finally:
            self._writable = None
            if self._fd == fd:
                loop.remove_writer(fd)


def _ended(line: bytes) -> bytes:
    if b"\n" in line:
        raise ValueError("a line to write has no newline")
    return line + b"\n"


def _pieces(ended: bytes) -> list[memoryview]:
    """As one write takes them. The last holds more than the newline: whatever the others leave is
    no whole line, which the newline of the next one would have carried out."""
    pieces = list(utf8_chunks(ended, PIPE_BUF))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        begins = len(ended) - 1 - len(pieces[-2])
        cut = begins + len(next(utf8_chunks(ended[begins:], PIPE_BUF // 2)))
        pieces[-2:] = [memoryview(ended)[begins:cut], memoryview(ended)[cut:]]
    return pieces


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
