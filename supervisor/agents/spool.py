"""The files between the supervisor and one app-server: a FIFO in, a spool out, stderr beside it.

Nothing here reads lines or decides anything. A `FifoWriter` and a `SpoolReader` belong to one
event loop and one agent. Facts about FIFOs and hole punching are in docs/architecture.md (D1, D2).
"""

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation

READ_BYTES = 256 * 1024
_FIRST_READ = 16 * 1024
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class SpoolPaths:
    """Where the files of one generation are: a directory of its own (0700) below `directory`."""

    directory: Path
    generation: Generation

    @property
    def home(self) -> Path:
        """The generation's own directory."""
        return self.directory / str(self.generation)

    @property
    def stdin(self) -> Path:
        """The FIFO the app-server reads."""
        return self.home / "stdin"

    @property
    def stdout(self) -> Path:
        """The spool: every byte the app-server said, in order."""
        return self.home / "stdout"

    @property
    def stderr(self) -> Path:
        """Bounded by `bound_stderr`."""
        return self.home / "stderr"

    def make(self) -> None:
        """Make the directory, the FIFO and an empty spool; `directory` itself must be there.

        What a start that was never recorded left under this number is emptied first: end its
        processes before. Raises `agent_start_failed`.
        """
        try:
            self.remove()
            self.home.mkdir(mode=_PRIVATE_DIRECTORY)
            os.mkfifo(self.stdin, _PRIVATE_FILE)
            self.stdout.touch(_PRIVATE_FILE)
        except OSError as error:
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED, f"cannot make the spool: {error}"
            ) from error

    def remove(self) -> None:
        """Take the files and the directory away, if they are there. Raises OSError."""
        for path in (self.stdin, self.stdout, self.stderr):
            path.unlink(missing_ok=True)
        try:
            self.home.rmdir()
        except FileNotFoundError:
            return


class SpoolReader:
    """Reads a spool from `offset` on, keeping it open. Raises FileNotFoundError if it is gone."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.offset = offset
        """Where the next read starts, in bytes."""
        self.at_end = False
        """The last read found the spool's end: nothing more was there at that moment."""
        self._expected = _FIRST_READ

    def read(self, limit: int = READ_BYTES) -> bytes:
        """What is there now, at most `limit` bytes; empty at the end. Never waits."""
        # A small buffer while little comes: a large one is mapped and unmapped on every read.
        wanted = min(limit, self._expected)
        data = os.pread(self._fd, wanted, self.offset)
        self.offset += len(data)
        self.at_end = len(data) < wanted
        self._expected = _FIRST_READ if self.at_end else READ_BYTES
        return data

    def size(self) -> int:
        """The spool's size in bytes, holes included."""
        return os.fstat(self._fd).st_size

    def hole_at(self, offset: int) -> bool:
        """Whether the byte at `offset` was punched out. False past the end: nothing is there."""
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA) != offset
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return offset < self.size()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def punch(target: Path | int, upto: int) -> bool:
    """Give the disk blocks of the first `upto` bytes back; the size and all offsets stay.

    Rounded down to whole blocks, so that the byte at `upto` keeps its own. `target` is a path or a
    descriptor open for writing. False where the file system cannot.
    """
    if isinstance(target, int):
        return _punch(target, upto)
    fd = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _punch(fd, upto)
    finally:
        os.close(fd)


def bound_stderr(path: Path, limit: int) -> int:
    """Keep about the last `limit` bytes of a file that grows; return the bytes let go of.

    Its writer appends (O_APPEND), so that where no hole can be punched the file is emptied.
    A missing file is no file to bound: 0.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        found = os.fstat(fd)
        # Blocks count 512 bytes each; the limit holds with one block to spare, else every byte
        # written would be followed by a punch.
        if found.st_blocks * 512 <= limit + found.st_blksize:
            return 0
        if not _punch(fd, max(found.st_size - limit, 0)):
            os.ftruncate(fd, 0)
        return (found.st_blocks - os.fstat(fd).st_blocks) * 512
    finally:
        os.close(fd)


def tail(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of a file whose front may be a hole; empty if there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        start = max(os.fstat(fd).st_size - limit, 0)
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return b""
            raise
        return os.pread(fd, limit, start)
    finally:
        os.close(fd)


def _punch(fd: int, upto: int) -> bool:
    block = os.fstat(fd).st_blksize
    length = upto // block * block
    if length <= 0:
        return True
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    return _FALLOCATE(fd, mode, 0, length) == 0


def _find_fallocate() -> Callable[[int, int, int, int], int]:
    # Python has posix_fallocate only, which cannot punch.
    libc = ctypes.CDLL(None, use_errno=True)
    found = getattr(libc, "fallocate64", None) or libc.fallocate
    found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    found.restype = ctypes.c_int
    called: Callable[[int, int, int, int], int] = found
    return called


_FALLOCATE = _find_fallocate()


def open_fifo(path: Path) -> int:
    """The writing end, non-blocking. `agent_restarted` where nobody has the FIFO open to read."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            raise SupervisorError(
                ErrorCode.AGENT_RESTARTED, "the app-server is not there to read"
            ) from error
        raise SupervisorError(
            ErrorCode.STATE_DIRECTORY_UNSAFE, f"{path} cannot be opened: {error.strerror}"
        ) from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise SupervisorError(ErrorCode.STATE_DIRECTORY_UNSAFE, f"{path} is not a FIFO")
    try:
        # Refused for an unprivileged user who holds many pipes: then 64 KiB must do.
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1024 * 1024)
    except OSError:
        return fd
    return fd
