"""Tells agents that their spool has grown. One inotify instance for the whole process (D1).

`max_user_instances` is 128 for a uid, and each Codex takes two: where no instance, or no watch, is
to be had, sizes are polled instead. A callback is a plain function, called in the loop; it says
"look", and nothing of what there is to see. Wake-ups are coalesced; one may come for nothing, none
is lost: what was written before `watch` returned is the caller's to read.
"""

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from inotify_simple import INotify, flags  # type: ignore[import-untyped]

POLL_SECONDS = 0.02
_READ_BYTES = 64 * 1024
_EVENTS = struct.Struct("iIII")
_OVERFLOW = int(flags.Q_OVERFLOW)

Callback = Callable[[], object]


class Inotify(Protocol):
    """The part of `inotify_simple.INotify` used here."""

    def fileno(self) -> int:
        """The descriptor that becomes readable."""

    def add_watch(self, path: str, mask: int) -> int:
        """A watch descriptor. Raises OSError."""

    def rm_watch(self, wd: int) -> None:
        """Raises OSError."""

    def close(self) -> None:
        """Let go of it."""


def system_inotify() -> Inotify:
    """The kernel's. Raises OSError where there is none left."""
    made: Inotify = INotify(nonblocking=True)
    return made


class Watch:
    """One watched file. `close` it; idempotent."""

    __slots__ = ("_watcher", "callback", "path", "size", "wd")

    def __init__(self, watcher: "Watcher", path: Path, callback: Callback, size: int) -> None:
        self._watcher: Watcher | None = watcher
        self.path = path
        self.callback = callback
        self.size = size
        """As last polled; unused under inotify."""
        self.wd = -1
        """The inotify watch descriptor; -1: polled."""

    def close(self) -> None:
        """No callback comes after this."""
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.forget(self)


class Watcher:
    """Belongs to one running event loop; made inside it."""

    def __init__(
        self,
        *,
        inotify_factory: Callable[[], Inotify] = system_inotify,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll_seconds = poll_seconds
        self._by_wd: dict[int, list[Watch]] = {}
        self._polled: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._inotify: Inotify | None
        try:
            self._inotify = inotify_factory()
        except OSError:
            self._inotify = None
        else:
            self._loop.add_reader(self._inotify.fileno(), self._on_readable)

    @property
    def mode(self) -> Literal["inotify", "polling"]:
        """`polling` as soon as one file has to be polled: `doctor` says so."""
        return "polling" if self._inotify is None or self._polled else "inotify"

    def watch(self, path: Path, callback: Callback) -> Watch:
        """Call `callback` whenever the file may have grown. Raises FileNotFoundError."""
        watch = Watch(self, path, callback, path.stat().st_size)
        watch.wd = self._add(path)
        if watch.wd >= 0:
            self._by_wd.setdefault(watch.wd, []).append(watch)
        else:
            self._polled.append(watch)
            self._schedule()
        return watch

    def forget(self, watch: Watch) -> None:
        """For `Watch.close`."""
        if watch.wd < 0:
            self._polled.remove(watch)
            return
        # One inode has one descriptor, however many watch it.
        sharing = self._by_wd.get(watch.wd, [])
        if watch in sharing:
            sharing.remove(watch)
        if not sharing and self._by_wd.pop(watch.wd, None) is not None and self._inotify:
            self._remove(self._inotify, watch.wd)

    def close(self) -> None:
        """Stop everything. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        self._by_wd.clear()
        self._polled.clear()

    def _add(self, path: Path) -> int:
        if self._inotify is None:
            return -1
        try:
            return self._inotify.add_watch(str(path), flags.MODIFY)
        except FileNotFoundError:
            raise
        except OSError:
            return -1

    @staticmethod
    def _remove(inotify: Inotify, wd: int) -> None:
        try:
            inotify.rm_watch(wd)
        except OSError:
            # The kernel dropped it with the file.
            return

    def _on_readable(self) -> None:
        assert self._inotify is not None
        try:
            data = os.read(self._inotify.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        woken: dict[int, None] = {}
        # Files are watched, not directories: no event carries a name behind its 16 bytes.
        for wd, mask, _cookie, _length in _EVENTS.iter_unpack(data):
            if mask & _OVERFLOW:
                woken.update(dict.fromkeys(self._by_wd))
            else:
                woken[wd] = None
        for wd in woken:
            for watch in tuple(self._by_wd.get(wd, ())):
                self._call(watch)

    def _schedule(self) -> None:
        if self._timer is None and self._polled:
            self._timer = self._loop.call_later(self._poll_seconds, self._poll)

    def _poll(self) -> None:
        self._timer = None
        for watch in tuple(self._polled):
            try:
                size = watch.path.stat().st_size
            except OSError:
                continue
            if size != watch.size:
                watch.size = size
                self._call(watch)
        self._schedule()

    def _call(self, watch: Watch) -> None:
        try:
            watch.callback()
        except Exception as error:  # noqa: BLE001 - one agent's failure is no other's
            self._loop.call_exception_handler(
                {"message": f"a watcher of {watch.path} failed", "exception": error}
            )
