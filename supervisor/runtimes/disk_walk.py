"""How much a tree takes on the disk: one pass over it, in small steps, whatever is in it.

Every directory is opened relative to the one above it, so that no path is ever long and no symlink
is followed. The first levels stay open; one further down is let go while what is below it is looked
at, and found again by "..", if that still is the directory it was. The pass stays on the device it
began on, counts each inode once, and ends as soon as the bound is passed. What goes away meanwhile
does not count; what cannot be looked into is `missed`. Past the counts below, which also bound the
memory of a pass, a tree is `uncountable`.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from supervisor.ports.disk import DiskUse

FILES: Final = 20_000_000
LINKED: Final = 500_000
"""Files with more than one name: each is remembered, to be counted once."""
PENDING: Final = 200_000
"""Directories whose names were read and that are yet to be looked into."""
_HELD: Final = 32
"""Levels that stay open."""
_BLOCK: Final = 512
"""Bytes of st_blocks' unit, on every file system."""
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_Identity = tuple[int, int]


@dataclass(slots=True)
class _Level:
    fd: int
    """-1: let go."""
    identity: _Identity
    names: list[str]
    """Of directories in it that are yet to be looked into."""


class Walk:
    """One pass. `step` and `close` block, and may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        bound: int,
        *,
        most_files: int = FILES,
        most_linked: int = LINKED,
        most_pending: int = PENDING,
    ) -> None:
        self.bytes = 0
        self.files = 0
        self.missed = 0
        self._bound = bound
        self._most_files = most_files
        self._most_linked = most_linked
        self._most_pending = most_pending
        self._directory = directory
        self._levels: list[_Level] = []
        self._listing: Iterator[os.DirEntry[str]] | None = None
        self._linked: set[int] = set()
        self._pending = 0
        self._device: int | None = None
        self._done = False
        self._turn = threading.Lock()

    @property
    def use(self) -> DiskUse | None:
        """What came of it; None before its end."""
        if not self._done:
            return None
        return DiskUse(
            verdict=self._verdict(), bytes=self.bytes, files=self.files, missed=self.missed
        )

    def step(self, entries: int) -> None:
        """Look at so many more entries, or to the end."""
        with self._turn:
            for _ in range(entries):
                if self._done:
                    return
                self._advance()
                if self._verdict() != "within":
                    self._end()

    def close(self) -> None:
        """Let go of the tree. Idempotent."""
        with self._turn:
            self._end()

    def _verdict(self) -> Literal["within", "over", "uncountable"]:
        if self.bytes > self._bound:
            return "over"
        return "uncountable" if self._is_uncountable() else "within"

    def _is_uncountable(self) -> bool:
        return (
            self.files > self._most_files
            or len(self._linked) > self._most_linked
            or self._pending > self._most_pending
        )

    def _end(self) -> None:
        self._done = True
        self._stop_listing()
        while self._levels:
            self._let_go(self._levels.pop())

    def _advance(self) -> None:
        """One entry of the directory being listed, or one directory up or down."""
        if self._device is None:
            self._begin()
        elif self._listing is not None:
            self._next_entry(self._listing)
        elif not self._levels:
            self._end()
        elif self._levels[-1].names:
            self._down()
        else:
            self._up()

    def _begin(self) -> None:
        try:
            fd = os.open(self._directory, _FLAGS)
        except OSError:
            self.missed += 1
            self._end()
            return
        self._device = os.fstat(fd).st_dev
        self._enter(fd)

    def _next_entry(self, listing: Iterator[os.DirEntry[str]]) -> None:
        try:
            entry = next(listing, None)
            if entry is None:
                self._stop_listing()
                return
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:
            self.missed += 1
            self._stop_listing()
            return
        if status.st_dev != self._device:
            return
        if stat.S_ISDIR(status.st_mode):
            # Counted when it is entered.
            self._levels[-1].names.append(entry.name)
            self._pending += 1
            return
        self.files += 1
        if status.st_nlink > 1:
            if status.st_ino in self._linked:
                return
            self._linked.add(status.st_ino)
        self.bytes += status.st_blocks * _BLOCK

    def _down(self) -> None:
        level = self._levels[-1]
        name = level.names.pop()
        self._pending -= 1
        try:
            fd = os.open(name, _FLAGS, dir_fd=level.fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            # Else it is a symlink by now.
            self.missed += error.errno != errno.ELOOP
            return
        if len(self._levels) >= _HELD:
            self._let_go(level)
        self._enter(fd)

    def _enter(self, fd: int) -> None:
        status = os.fstat(fd)
        self._levels.append(_Level(fd, (status.st_dev, status.st_ino), []))
        if status.st_dev != self._device:
            return
        self.files += 1
        self.bytes += status.st_blocks * _BLOCK
        try:
            self._listing = os.scandir(fd)
        except OSError:
            self.missed += 1

    def _up(self) -> None:
        level = self._levels.pop()
        if self._levels and self._levels[-1].fd < 0:
            self._find_again(level.fd)
        self._let_go(level)

    def _find_again(self, below: int) -> None:
        """Open the last level by the one below it; if that was moved away, give up what is left
        down to the last level that is open."""
        level = self._levels[-1]
        with suppress(OSError):
            level.fd = os.open("..", _FLAGS, dir_fd=below)
            status = os.fstat(level.fd)
            if (status.st_dev, status.st_ino) == level.identity:
                return
            self._let_go(level)
        self.missed += 1
        while self._levels[-1].fd < 0:
            self._pending -= len(self._levels.pop().names)

    def _let_go(self, level: _Level) -> None:
        if level.fd >= 0:
            os.close(level.fd)
            level.fd = -1

    def _stop_listing(self) -> None:
        if self._listing is not None:
            self._listing.close()  # type: ignore[attr-defined]
            self._listing = None
