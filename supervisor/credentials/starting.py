"""A proxy of the supervisor's own, where no unit runs one: started detached, so that it outlives
the supervisor, and ended by itself when nobody needs it any more.

It gets the settings by a private file; the key itself is read by the proxy alone.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.credentials.packets import Channel, dial
from supervisor.credentials.seat import make_private
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.settings_groups import ProxySettings

# All that it needs of an environment; no secret has a reason to be in one of these.
_PASSED: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    *("CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
SOCKET_NAME: Final = "proxy.sock"
_SECONDS: Final = 30.0
"""For one that was started to answer; it takes one."""
_LOOK_SECONDS: Final = 0.05
_SILENCES: Final = 3
"""In a row, before it is taken to hang: ending one that is merely slow would cut its streams."""
_TAIL: Final = 4096

log = get_logger()


class _NobodyError(Exception):
    """No proxy answers."""


class Starter:
    """Finds or starts the proxy of `directory`, one after the other."""

    def __init__(
        self, settings: ProxySettings, directory: Path, environment: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._environment = {n: v for n, v in environment.items() if n in _PASSED}
        self._child = -1
        """A pidfd of the last one; -1: there is none, or it has ended."""
        self._child_pid = -1
        self._silent_pid = -1
        self._silences = 0
        self._log_began = 0
        self._socket = directory / SOCKET_NAME

    async def connect(self) -> Channel:
        """Find the one that runs, else start one. `model_unreachable` with what it said of its end,
        `state_directory_unsafe`, and what `dial` raises."""
        with contextlib.suppress(_NobodyError):
            return self._dial()
        if not self._running():
            self._start()
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._answered()
        except TimeoutError:
            self.silent(self._child_pid)
            raise _unreachable(f"the proxy does not answer within {_SECONDS:.0f} s") from None

    async def _answered(self) -> Channel:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            # Before the look at its socket: it may have answered just before its end.
            running = self._running()
            try:
                return self._dial()
            except _NobodyError as error:
                if not running:
                    raise _unreachable(self._complaint() or str(error)) from None

    def _dial(self) -> Channel:
        try:
            return dial(self._socket)
        except SupervisorError as error:
            if error.code is ErrorCode.CONNECTION_LOST:
                raise _NobodyError(error.message) from None
            raise

    def _start(self) -> None:
        make_private(self._directory)
        try:
            self._write_settings()
            self._spawn()
        except OSError as error:
            raise _unreachable(f"the proxy cannot be started: {error}") from error

    def _running(self) -> bool:
        """Whether the one that was started last has not ended; collects it if it has."""
        if self._child >= 0:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PIDFD, self._child, os.WEXITED | os.WNOHANG) is None:
                    return True
            os.close(self._child)
            self._child = -1
        return False

    def _complaint(self) -> str:
        """What the last one said of its end."""
        try:
            with self._log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - _TAIL, min(self._log_began, end)))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else ""

    def release(self) -> None:
        """Leave it running. Idempotent."""
        if self._running():
            os.close(self._child)
            self._child = -1

    def answered(self) -> None:
        """The proxy does answer."""
        self._silences = 0

    def silent(self, pid: int) -> None:
        """That process did not answer in time. If it is a proxy of this directory, and makes a
        habit of it, it is killed: it would keep its seat, and every container waiting, for ever."""
        self._silences = self._silences + 1 if pid == self._silent_pid else 1
        self._silent_pid = pid
        if self._silences < _SILENCES:
            return
        self._silences = 0
        with contextlib.suppress(OSError, OverflowError):
            pidfd = os.pidfd_open(pid)
            try:
                # Only now: had the pid been another's before, the signal would reach nobody.
                if self._is_ours(pid):
                    log.warning("proxy_hangs", pid=pid)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def _is_ours(self, pid: int) -> bool:
        """Whether it was started by a supervisor of this directory. OSError if it has ended."""
        process = Path(f"/proc/{pid}")
        line = process.joinpath("cmdline").read_bytes()
        named = b"\0--socket\0" + os.fsencode(self._socket) + b"\0"
        ours = process.stat().st_uid == os.geteuid()
        return ours and b"\0--on-demand\0" in line and named in line

    @property
    def _log(self) -> Path:
        return self._directory / "proxy.log"

    def _write_settings(self) -> None:
        fresh = self._directory / "settings.json.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(self._settings.model_dump_json(exclude={"socket"}))
        fresh.replace(self._directory / "settings.json")

    def _spawn(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self._log, flags, 0o600)
        try:
            self._log_began = os.fstat(log).st_size
            # -P: else the working directory, which may be a hostile project, would come first where
            # Python looks for modules.
            command = [sys.executable, "-P", "-m", "supervisor.cli.main", "proxy", "--on-demand"]
            command += ["--settings", str(self._directory / "settings.json")]
            command += ["--socket", str(self._socket)]
            pid = os.posix_spawn(
                sys.executable,
                command,
                self._environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
            self._child, self._child_pid = os.pidfd_open(pid), pid
        finally:
            os.close(log)


def _unreachable(why: str) -> SupervisorError:
    return SupervisorError(ErrorCode.MODEL_UNREACHABLE, why)
