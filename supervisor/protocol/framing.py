"""Bytes to lines and lines to writable pieces. Pure: no I/O, no knowledge of JSON."""

from collections.abc import Iterator

import msgspec

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of one line, newline excluded. Codex has no limit of its own (64 MiB in were fine)."""

PIPE_BUF = 4096
"""Linux: a write of at most this many bytes to a FIFO is atomic."""

_CONTINUATION_MASK = 0xC0
_CONTINUATION = 0x80


class Oversized(msgspec.Struct, frozen=True, gc=False):
    """A line that was refused: its bytes are gone, its length and its place in the stream count."""

    size: int
    """Bytes of the line, newline excluded."""


class LineFramer:
    """Cuts a byte stream at newlines, whatever the chunking. Holds at most `limit` bytes.

    A trailing carriage return stays on its line: to JSON it is whitespace.
    """

    __slots__ = ("_limit", "_parts", "_pending")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        if limit < 1:
            raise ValueError("the line limit must be at least one byte")
        self._limit = limit
        self._parts: list[bytes] = []
        self._pending = 0

    @property
    def pending(self) -> int:
        """Bytes fed since the last newline, refused ones included: `fed - pending` is the offset
        at which the unfinished line starts."""
        return self._pending

    def reset(self) -> None:
        """Forget the unfinished line, as at the start of a stream."""
        self._parts.clear()
        self._pending = 0

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """The lines that `data` completes, in order, without their newlines."""
        lines: list[bytes | Oversized] = list(data.split(b"\n"))
        tail = lines.pop()
        if lines:
            if self._pending:
                lines[0] = self._finish(lines[0])
            if len(data) > self._limit:
                lines = [self._checked(line) for line in lines]
        if tail:
            self._keep(tail)  # type: ignore[arg-type]  # split yields bytes; only we put Oversized
        return lines

    def _keep(self, tail: bytes) -> None:
        self._pending += len(tail)
        if self._pending > self._limit:
            self._parts.clear()
        else:
            self._parts.append(tail)

    def _finish(self, head: bytes | Oversized) -> bytes | Oversized:
        assert isinstance(head, bytes)
        size = self._pending + len(head)
        if size > self._limit:
            self.reset()
            return Oversized(size)
        self._parts.append(head)
        line = b"".join(self._parts)
        self.reset()
        return line

    def _checked(self, line: bytes | Oversized) -> bytes | Oversized:
        if isinstance(line, bytes) and len(line) > self._limit:
            return Oversized(len(line))
        return line


def utf8_chunks(line: bytes, size: int = PIPE_BUF) -> Iterator[memoryview]:
    """Pieces of valid UTF-8 `line`, each of at most `size` bytes and ending with a whole character.

    Whatever a writer leaves behind after any piece is then valid UTF-8, and a newline ends it
    harmlessly: a line cut inside a character ends Codex. `size` is at least 4, the longest
    character. Raises ValueError where `line` is not UTF-8.
    """
    if size < 4:
        raise ValueError("a piece must have room for any character")
    view = memoryview(line)
    start = 0
    while start < len(line):
        end = min(start + size, len(line))
        if end < len(line):
            lowest = end - 4
            while end > lowest and line[end] & _CONTINUATION_MASK == _CONTINUATION:
                end -= 1
            if end == lowest:
                raise ValueError("the line is not UTF-8")
        yield view[start:end]
        start = end
