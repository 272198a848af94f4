"""The three files an app-server gets for its stdio (D1), as every runtime hands them on."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.ports.runtime import Launch


@contextmanager
def opened(launch: Launch) -> Iterator[list[int]]:
    """Descriptors of stdin, stdout and stderr, closed after. Raises OSError, and ValueError if
    stdin is no FIFO."""
    descriptors: list[int] = []
    try:
        descriptors.append(_open_fifo(launch.stdin))
        descriptors += [_open_output(launch.stdout), _open_output(launch.stderr)]
        yield descriptors
    finally:
        for fd in descriptors:
            os.close(fd)


def take_back(launch: Launch) -> None:
    """Make the files ours again: an OCI runtime gave them to the agent. Raises OSError."""
    for path in (launch.stdin, launch.stdout, launch.stderr):
        os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)


def _open_fifo(path: Path) -> int:
    """Read-write, so that the app-server holds its own write end and never sees end-of-file."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"{path} is not a FIFO")
    return fd


def _open_output(path: Path) -> int:
    return os.open(
        path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
