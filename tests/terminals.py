"""The command line as people use it: in a terminal of its own, or with pipes."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from supervisor.settings import environment

DEADLINE = 60.0
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-m', 'supervisor.cli.main', *sys.argv[1:]])"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def command(*arguments: str) -> list[str]:
    """The command line's argv."""
    return [sys.executable, "-m", "supervisor.cli.main", *arguments]


def completed(
    env: Mapping[str, str], *arguments: str, given: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """One call with pipes, carried out to its end."""
    return subprocess.run(
        command(*arguments),
        env={**environment(), **env},
        input=given,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


class Terminal:
    """A call in a terminal, as `terminal` starts it: what it shows, and a keyboard."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self.shown = ""
        """Everything so far, without colours, a line's end as one character."""
        self._raw = b""
        self._seen = 0
        self._master = master
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._raw += data
        text = self._raw.decode("utf-8", "replace")
        self.shown = _ESCAPES.sub("", text).replace("\r\n", "\n")
        self._news.set()

    async def expect(self, text: str) -> str:
        """Wait until `text` is shown, behind what was expected before; what stood before it."""
        async with asyncio.timeout(DEADLINE):
            while (place := self.shown.find(text, self._seen)) < 0:
                if self.process.poll() is not None and not self._news.is_set():
                    raise AssertionError(f"ended without showing {text!r}:\n{self.shown}")
                self._news.clear()
                try:
                    await asyncio.wait_for(self._news.wait(), 1)
                except TimeoutError:
                    continue
        before = self.shown[self._seen : place]
        self._seen = place + len(text)
        return before

    def type(self, text: str) -> None:
        """As from the keyboard."""
        os.write(self._master, text.encode())

    def ctrl_c(self) -> None:
        self.type("\x03")

    def hang_up(self) -> None:
        """As when its window is closed."""
        asyncio.get_running_loop().remove_reader(self._master)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self._master)
        os.close(nowhere)

    async def ended(self) -> int:
        """Wait for its end; the exit status. Everything it showed is in `shown` then."""
        code = await asyncio.to_thread(self.process.wait, DEADLINE)
        await asyncio.sleep(0)
        self._read_rest()
        return code

    def _read_rest(self) -> None:
        os.set_blocking(self._master, False)
        before = -1
        while len(self._raw) != before:
            before = len(self._raw)
            self._read()


@asynccontextmanager
async def terminal(env: Mapping[str, str], *arguments: str) -> AsyncIterator[Terminal]:
    """Start one call in a terminal of its own, whose Ctrl-C reaches it."""
    with _pty() as (master, slave):
        process = subprocess.Popen(  # noqa: ASYNC220  # forks, and does not wait
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
            env={**environment(), "TERM": "xterm-256color", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        made = Terminal(process, master)
        try:
            yield made
        finally:
            asyncio.get_running_loop().remove_reader(master)
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def _pty() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)
