"""The one writer to the terminal, and the one reader of its keyboard."""

import asyncio
import os
import sys
import termios
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from supervisor.cli.output import console, plain
from supervisor.cli.pieces import Piece

_LINE_LIMIT = 64 * 1024


class Terminal:
    """Shows pieces on standard output. Knows whether a line is open, and whose it is."""

    def __init__(self) -> None:
        self._console = console()
        self._open: str | None = None
        """The stream whose line is not ended; "" for a prompt's."""
        self._last: str | None = None
        self._prompt: str | None = None
        """As it is repeated."""

    def show(self, pieces: Iterable[Piece]) -> None:
        """Write them. What flows is there at once."""
        for piece in pieces:
            if piece.stream is None:
                self._fresh_line()
                self._write(piece.text + "\n", piece.style)
                self._last = None
            elif piece.text:
                if piece.stream != self._last:
                    self._fresh_line()
                self._write(piece.text, piece.style)
                self._last = piece.stream
                self._open = None if piece.text.endswith("\n") else piece.stream
        if self._prompt is not None:
            self._ask(self._prompt)
        self._console.file.flush()

    def ask(self, text: str, *, again: str | None = None) -> None:
        """A prompt: what is typed stands behind it. It stays the last line until `asked`, in the
        words of `again` where other text has come between it and what it is about."""
        self._prompt = text if again is None else again
        self._ask(text)

    def _ask(self, text: str) -> None:
        self._fresh_line()
        self._write(text, "bold yellow")
        self._open, self._last = "", None
        self._console.file.flush()

    def asked(self, *, answered: bool) -> None:
        """The prompt is over. Whoever `answered` it has ended its line."""
        self._prompt = None
        if answered:
            self._open = None

    def end(self) -> None:
        """Leave the cursor at the begin of a line."""
        self._fresh_line()
        self._console.file.flush()

    def _fresh_line(self) -> None:
        if self._open is not None:
            self._write("\n", "")
            self._open = None

    def _write(self, text: str, style: str) -> None:
        self._console.out(plain(text), style=style or None, highlight=False, end="")


class Keyboard:
    """Lines typed on standard input. Owned by whoever prompts."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[asyncio.Queue[str | None]]:
        """What is typed from now on, a line each; None once standard input is closed.

        What was typed before is thrown away: it was no answer to what is asked now.
        """
        typed: asyncio.Queue[str | None] = asyncio.Queue(64)
        loop = asyncio.get_running_loop()
        termios.tcflush(self._fd, termios.TCIFLUSH)

        def read() -> None:
            try:
                data = os.read(self._fd, _LINE_LIMIT)
            except OSError:
                data = b""
            if not data:
                loop.remove_reader(self._fd)
            if not typed.full():
                typed.put_nowait(data.decode("utf-8", "replace").strip() if data else None)

        loop.add_reader(self._fd, read)
        try:
            yield typed
        finally:
            loop.remove_reader(self._fd)
