"""The proxy's place: a socket in a directory of its own, and a lock, so that there is one of it."""

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from supervisor.credentials.packets import KIND, check_path
from supervisor.errors import ErrorCode, SupervisorError

BACKLOG: Final = 16


class Seat:
    """Takes `path` for this process. Raises `address_in_use` if another proxy has it, or what is
    there is no socket, `state_directory_unsafe`, `settings_invalid`."""

    def __init__(self, path: Path) -> None:
        check_path(path)
        make_private(path.parent)
        self._path = path
        self._lock = _locked(path.with_name(path.name + ".lock"))
        try:
            self.socket = _bound(path)
        except BaseException:
            os.close(self._lock)
            raise

    def leave(self) -> None:
        """Give it back. The lock file stays: removing it would race."""
        self.socket.close()
        # Nobody else's: the lock is still held.
        self._path.unlink(missing_ok=True)
        os.close(self._lock)


def make_private(path: Path) -> None:
    """Make the directory 0700; `state_directory_unsafe` unless it is ours alone."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise _unsafe(path, f"cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unsafe(path, "is no directory")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise _unsafe(path, "is not this user's alone")


def _locked(path: Path) -> int:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unsafe(path, f"cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SupervisorError(
            ErrorCode.ADDRESS_IN_USE,
            f"another proxy has {path.with_suffix('')}",
            hint="Use the one that runs, or stop it.",
        ) from error
    return lock


def _bound(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SupervisorError(
                ErrorCode.ADDRESS_IN_USE, f"{path} is no socket", hint="Move the file away."
            )
        # Its owner is dead: we have the lock.
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, KIND)
    try:
        bound.bind(str(path))
        # Nobody can connect before listen(): the mode is right from the first connection on.
        path.chmod(0o600)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise SupervisorError(
            ErrorCode.ADDRESS_IN_USE, f"cannot listen on {path}: {error.strerror}"
        ) from error
    return bound


def _unsafe(path: Path, why: str) -> SupervisorError:
    return SupervisorError(
        ErrorCode.STATE_DIRECTORY_UNSAFE,
        f"{path} {why}",
        hint="The proxy's socket needs a directory of mode 0700, of the user it runs as.",
    )
