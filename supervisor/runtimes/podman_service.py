"""podman's API service, ours alone: it is started when somebody asks and nobody answers, and ends
itself when nobody has asked for a while.

It outlives us for that while, so a successor may find its predecessor's; whoever listens in our
directory is one of the two. Blocking, for any number of threads.
"""

import contextlib
import os
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.podman_child import PATIENCE, end, last_words, no_answer, read, spawn

IDLE_SECONDS: Final = 5
"""podman counts generously: it has been seen to end after nine."""
SOCKET: Final = "podman.sock"
_LOOK_SECONDS: Final = 0.005
_ENDS_WITHIN: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")


class PodmanService:
    """`directory` is nobody's but ours; it is made. `environment` is all that podman gets."""

    def __init__(
        self,
        environment: Mapping[str, str],
        directory: Path,
        *,
        program: str = "podman",
        patience: float = PATIENCE,
        idle_seconds: int = IDLE_SECONDS,
    ) -> None:
        self.program = program
        self.patience = patience
        self._environment = environment
        self._directory = directory
        self._idle_seconds = idle_seconds
        self._starting = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._collecting: threading.Thread | None = None

    @contextmanager
    def address(self) -> Iterator[str]:
        """The path of its socket, to be used inside: somebody answers there, or did just now.

        Short, however long the directory's: a socket's address has no more than 107 bytes.
        `agent_start_failed`, `state_directory_unsafe`.
        """
        with self._place() as (fd, path):
            if not self._starting.acquire(timeout=self.patience):
                raise no_answer(self.program, self.patience)
            try:
                if _listener(path) is None:
                    self._start(fd, path)
            finally:
                self._starting.release()
            yield path

    def retire(self) -> None:
        """It answers what is of no use: end it in order, so that the next call has a fresh one."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """It hangs, or is not podman."""
        self._signal(signal.SIGKILL)
        child = self._child
        if child is not None and child.returncode is None:
            # An own child need not be the one that listens: it may have started that.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        self._collected()
        with self._place() as (_, path), contextlib.suppress(FileNotFoundError):
            Path(path).unlink()

    def close(self) -> None:
        """End it, if it runs. The next call would start it again."""
        if not self._directory.is_dir():
            return
        self.retire()
        deadline = time.monotonic() + _ENDS_WITHIN
        with self._place() as (_, path):
            while _listener(path) is not None and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            if _listener(path) is not None:
                self.kill()
        self._collected()

    def _collected(self) -> None:
        """Wait for an own child that is about to end."""
        if self._collecting is not None:
            self._collecting.join(_ENDS_WITHIN)

    @contextmanager
    def _place(self) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory, and the socket's path by it."""
        fd = self._opened()
        try:
            yield fd, f"/proc/self/fd/{fd}/{SOCKET}"
        finally:
            os.close(fd)

    def _opened(self) -> int:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(
                self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError as error:
            raise _unsafe(f"{self._directory} cannot be used: {error.strerror}") from error
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            os.close(fd)
            raise _unsafe(f"{self._directory} must be ours alone (mode 0700)")
        return fd

    def _start(self, fd: int, path: str) -> None:
        # Of one that was killed: podman would take the address for in use.
        Path(path).unlink(missing_ok=True)
        argv = [self.program, "system", "service", "--time", str(self._idle_seconds)]
        argv.append(f"unix://{path}")
        with tempfile.TemporaryFile() as err:
            stdio = (subprocess.DEVNULL, subprocess.DEVNULL, err.fileno())
            child = spawn(argv, stdio, self._environment, Path("/"), pass_fds=(fd,))
            try:
                self._await(child, path)
            except SupervisorError:
                end(child)
                raise
            if child.poll() is not None:
                raise SupervisorError(
                    ErrorCode.AGENT_START_FAILED,
                    f"podman's service ended at once: {last_words(read(err))}",
                )
        # It ends when it likes, and no child is to stay uncollected.
        collecting = threading.Thread(target=child.wait, name="podman-service", daemon=True)
        collecting.start()
        self._child, self._collecting = child, collecting

    def _await(self, child: "subprocess.Popen[bytes]", path: str) -> None:
        """Until it listens, or has ended."""
        deadline = time.monotonic() + self.patience
        while _listener(path) is None and child.poll() is None:
            if time.monotonic() > deadline:
                raise no_answer(self.program, self.patience)
            time.sleep(_LOOK_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        """To whoever listens, if that is podman."""
        with self._place() as (_, path):
            pid = _listener(path)
        if not pid or not self._is_ours(pid):
            return
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)

    def _is_ours(self, pid: int) -> bool:
        """A listener's pid is as good as its socket; by its name, it is a service of ours."""
        child = self._child
        if child is not None and child.pid == pid:
            return True
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return False
        return name == Path(self.program).name


def _listener(path: str) -> int | None:
    """The pid of who listens there, as the kernel says; None: nobody; 0: one that is too busy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:
            return 0
        asked = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(asked)[0]
        return pid


def _unsafe(message: str) -> SupervisorError:
    return SupervisorError(ErrorCode.STATE_DIRECTORY_UNSAFE, message)
