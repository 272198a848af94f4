"""The state directory: what one supervisor owns on disk, and the lock that makes it the only one.

The lock is flock(2) on a file, so that it goes with the process whatever way it ends. It is taken
before anything else in the directory is touched, FIFOs above all: two writers would interleave.
"""

import errno
import fcntl
import os
import re
import stat
from pathlib import Path

import msgspec

from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId

_PRIVATE = 0o700
_PROJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OWNER_LIMIT = 4096


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says of the supervisor that holds it. A claim, for people."""

    pid: int
    started: str
    """ISO 8601, UTC."""
    socket: str


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """How the last supervisor of this directory left it."""

    boot_id: str
    clean: bool


class StateDirectory:
    """Makes `path` (mode 0700), or refuses it with `state_directory_unsafe`. Blocking I/O, at start
    and end only."""

    def __init__(self, path: Path, *, boot_id: str, clock: Clock) -> None:
        self.path = path.absolute()
        self._boot_id = boot_id
        self._clock = clock
        self._lock_fd = -1
        self._last_run: LastRun | None = None
        _make_private(self.path)

    @property
    def socket(self) -> Path:
        """Where the RPC listens."""
        return self.path / "api.sock"

    @property
    def database(self) -> Path:
        """The embedded store."""
        return self.path / "supervisor.db"

    @property
    def token(self) -> Path:
        """The token of the WebSocket; its writer makes it 0600."""
        return self.path / "token"

    def project_dir(self, project: ProjectId) -> Path:
        """A project's own directory, made (0700) if need be. `bad_request` for no project id."""
        if _PROJECT_ID.fullmatch(project) is None:
            raise SupervisorError(ErrorCode.BAD_REQUEST, "this is not a project id")
        projects = self.path / "projects"
        _make_private(projects)
        directory = projects / project
        _make_private(directory)
        return directory

    def lock(self) -> None:
        """Become the one supervisor of this directory.

        Raises `state_directory_busy`, naming the process that holds it: `details` has its `pid`
        and `socket`, where the lock file says them.
        """
        fd = os.open(
            self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            said = os.pread(fd, _OWNER_LIMIT, 0)
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise SupervisorError(
                    ErrorCode.STATE_DIRECTORY_UNSAFE, f"{self.path} cannot be locked: {error}"
                ) from error
            raise self._busy(said) from None
        self._lock_fd = fd
        self._write_owner(fd)
        self._last_run = _decoded(self._marker, LastRun)
        self._write_marker(clean=False)

    def was_clean(self) -> bool:
        """Whether the last supervisor ended in order (`mark_clean`). Known once locked."""
        return self._last_run is not None and self._last_run.clean

    def is_continuous(self) -> bool:
        """False after an unclean change of boot id, and on a first run: epochs are renewed then.

        The machine's memory was lost unasked, so that files may have lost what was last written.
        """
        last = self._last_run
        return last is not None and (last.clean or last.boot_id == self._boot_id)

    def mark_clean(self) -> None:
        """Say that this supervisor ended in order. The last thing before `unlock`."""
        self._write_marker(clean=True)

    def unlock(self) -> None:
        """Let another supervisor in. Idempotent. The lock file stays: removing it would race."""
        if self._lock_fd >= 0:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _marker(self) -> Path:
        return self.path / "last-run"

    def _write_owner(self, fd: int) -> None:
        owner = Owner(
            pid=os.getpid(), started=self._clock.now().isoformat(), socket=str(self.socket)
        )
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(owner), 0)

    def _write_marker(self, *, clean: bool) -> None:
        """Durable before it returns, and never half: a claim of cleanness must be true."""
        fresh = self._marker.with_suffix(".new")
        fd = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(fd, msgspec.json.encode(LastRun(boot_id=self._boot_id, clean=clean)))
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(self._marker)
        _sync_directory(self.path)

    def _busy(self, said: bytes) -> SupervisorError:
        try:
            owner = msgspec.json.decode(said, type=Owner)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # It holds the lock, and has not yet said who it is.
            return SupervisorError(
                ErrorCode.STATE_DIRECTORY_BUSY, f"another supervisor is starting in {self.path}"
            )
        return SupervisorError(
            ErrorCode.STATE_DIRECTORY_BUSY,
            f"the supervisor with pid {owner.pid} uses {self.path} since {owner.started}",
            details={"pid": owner.pid, "socket": owner.socket},
        )


def _make_private(path: Path) -> None:
    """Make the directory 0700, or raise `state_directory_unsafe` unless it is ours alone."""
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        # Not following: a symlink there could be turned to another place at any time.
        found = path.lstat()
    except OSError as error:
        raise SupervisorError(
            ErrorCode.STATE_DIRECTORY_UNSAFE, f"{path} cannot be made: {error.strerror}"
        ) from error
    problem = _unsafe(found)
    if problem is not None:
        raise SupervisorError(ErrorCode.STATE_DIRECTORY_UNSAFE, f"{path} {problem}")


def _unsafe(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory"
    if found.st_uid != os.geteuid():
        return f"belongs to uid {found.st_uid}"
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return f"is open to others (mode {mode:04o})"
    return None


def _decoded(path: Path, kind: type[LastRun]) -> LastRun | None:
    """None for a file that is missing or says nothing: both mean that nothing is proved."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
