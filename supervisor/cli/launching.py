"""A supervisor in the background: started where none serves, found again where one does.

It is `codex-supervisor up --idle-exit N`, in a session of its own, so that no Ctrl-C reaches it;
what it says goes to `background.log` in the state directory.
"""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from supervisor.agents.state_dir import StateDirectory
from supervisor.api.client import RpcClient
from supervisor.cli.calling import dial
from supervisor.cli.invocation import Invocation
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.processes import boot_id
from supervisor.settings import Settings

IDLE_EXIT_SECONDS = 900
"""A background supervisor nobody uses ends after so long, unless the settings say otherwise."""
START_SECONDS = 60.0
POLL_SECONDS = 0.05
_TAIL = 64 * 1024


class Launcher:
    """Makes connections to the supervisor of `settings`, starting one for `directory` if need be.

    Owned by one command. One that was started by hand and goes away is waited for, not replaced:
    whoever started it may be starting it again.
    """

    def __init__(
        self,
        invocation: Invocation,
        settings: Settings,
        directory: Path,
        say: Callable[[str], object],
    ) -> None:
        self._invocation = invocation
        self._settings = settings
        self._directory = directory
        self._say = say
        self._may_start = True
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[RpcClient]:
        """One connection. Raises what the supervisor said when it could not start, and
        `supervisor_unreachable` where one that is not ours to start does not answer."""
        if self._may_start:
            await self._ensure()
        async with dial(self._settings) as client:
            yield client

    async def _ensure(self) -> None:
        async with self._lock:
            pid = await self._serving()
            if pid is None:
                if self._process is None:
                    self._say("starting a supervisor in the background")
                await self._start()
            elif self._process is None:
                self._may_start = pid in _background_pids(self._settings)

    async def _serving(self) -> int | None:
        """The pid of the supervisor that answers; None if there is none."""
        try:
            async with dial(self._settings) as client:
                status = await client.call(None, "hostStatus")
        except SupervisorError as error:
            if error.code not in (ErrorCode.SUPERVISOR_UNREACHABLE, ErrorCode.CONNECTION_LOST):
                raise
            return None
        return int(status["pid"]) if isinstance(status, dict) else None

    async def _start(self) -> None:
        StateDirectory(self._settings.state_dir, boot_id=boot_id(), clock=SystemClock())
        log = _open_log(self._settings.state_dir / "background.log")
        try:
            begin = os.lseek(log, 0, os.SEEK_END)
            process = subprocess.Popen(  # noqa: ASYNC220  # forks, and does not wait
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            # At once: whoever started it may be gone before it answers.
            _note_background(self._settings, process.pid)
            self._process = process
            async with asyncio.timeout(START_SECONDS):
                while await self._serving() is None:
                    if process.poll() is not None and not _lost_a_race(log, begin):
                        raise _complaint(log, begin)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.SUPERVISOR_UNREACHABLE,
                f"the supervisor started in the background does not answer in {START_SECONDS:.0f}"
                " s",
                hint=f"See {self._settings.state_dir / 'background.log'}.",
            ) from None
        finally:
            os.close(log)

    def _command(self) -> list[str]:
        # -P: else the working directory, which may be a hostile project, would come first where
        # Python looks for modules.
        command = [sys.executable, "-P", "-m", "supervisor.cli.main"]
        command += self._invocation.arguments()
        command += ["--output", "json", "up", str(self._directory)]
        if self._settings.idle_exit_seconds is None:
            command += ["--idle-exit", str(IDLE_EXIT_SECONDS)]
        if "listen_port" not in self._settings.model_fields_set:
            # Nobody asked for a port: none may be in the way.
            command += ["--listen-port", "0"]
        return command


def _open_log(path: Path) -> int:
    """Emptied when it has grown."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:
        raise SupervisorError(
            ErrorCode.STATE_DIRECTORY_UNSAFE, f"{path} cannot be written: {error.strerror}"
        ) from error
    if os.fstat(log).st_size > 64 * _TAIL:
        os.ftruncate(log, 0)
    return log


def _pid_file(settings: Settings) -> Path:
    return settings.state_dir / "background.pid"


def _note_background(settings: Settings, pid: int) -> None:
    """Two may be started at once, of which one serves: each adds a line."""
    with _pid_file(settings).open("a") as file:
        if file.tell() > _TAIL:
            file.truncate(0)
        file.write(f"{pid}\n")


def _background_pids(settings: Settings) -> set[int]:
    try:
        return {int(line) for line in _pid_file(settings).read_text().splitlines()}
    except (OSError, ValueError):
        return set()


def _errors(log: int, begin: int) -> list[SupervisorError]:
    """What a `--output json` call wrote of its end, newest last."""
    said = os.pread(log, _TAIL, max(begin, os.fstat(log).st_size - _TAIL))
    found = []
    for line in said.decode("utf-8", "replace").splitlines():
        try:
            error = json.loads(line)["error"]
            code = ErrorCode(error["code"])
            found.append(SupervisorError(code, error["message"], hint=error["hint"]))
        except (ValueError, LookupError, TypeError):
            continue
    return found


def _lost_a_race(log: int, begin: int) -> bool:
    """Another one was quicker to start: it will answer."""
    return any(e.code is ErrorCode.STATE_DIRECTORY_BUSY for e in _errors(log, begin)[-1:])


def _complaint(log: int, begin: int) -> SupervisorError:
    errors = _errors(log, begin)
    if errors:
        return errors[-1]
    said = os.pread(log, 2000, max(begin, os.fstat(log).st_size - 2000)).decode("utf-8", "replace")
    # Not `supervisor_unreachable`: that is what waiting mends.
    return SupervisorError(
        ErrorCode.INTERNAL, f"the supervisor could not be started: {said.strip()}"
    )
