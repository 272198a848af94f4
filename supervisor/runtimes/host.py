"""The host runtime: the app-server as a plain process of this machine (lite mode).

A `HostProcess` belongs to the event loop it was made in; scans of /proc and the spawn run in
threads. Nothing waits for a child by SIGCHLD: a pidfd becomes readable when it ends, under any
event loop, for our own child as for one that a predecessor started.
"""

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.policy.places import ProjectPaths
from supervisor.ports.runtime import MARKER_VARIABLE, Command, Exit, Identity, Launch
from supervisor.runtimes import stdio
from supervisor.runtimes.pidfd import exit_of_child, exit_of_status, exit_of_stranger
from supervisor.runtimes.processes import (
    PROC,
    Reaper,
    boot_id,
    carries_marker,
    markers,
    root_process,
    start_ticks,
    zombie_status,
)

_REAPED_WITHIN = 20
"""How often, at 10 ms, to ask how an adopted process ended, before nobody knows."""

_SEEN_WITHIN = 100
"""How often, at 1 ms, to look whether a new process shows its environment."""


@dataclass(frozen=True, slots=True)
class _Spawned:
    """A fresh child: its pidfd is open, and its exit is ours to collect."""

    identity: Identity
    pidfd: int


class HostProcess:
    """Implements `ports.runtime.Process`. Made by `HostRuntime` only, in a running loop."""

    def __init__(self, identity: Identity, marker: str, pidfd: int) -> None:
        self._identity = identity
        self._marker = marker
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_end)

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def confinement(self) -> None:
        """It has none but Codex's own."""
        return None

    @property
    def outdated(self) -> str:
        """Never: by each setting it goes on."""
        return ""

    async def wait(self) -> Exit:
        """Of an adopted process, Linux before 6.15 may not tell: then it is `Exit()`."""
        return await asyncio.shield(self._exit)

    async def terminate(self) -> None:
        self._signal(signal.SIGTERM)
        # A paused one would keep the request waiting.
        self._signal(signal.SIGCONT)

    async def kill_tree(self) -> int:
        return await asyncio.to_thread(self._kill_tree)

    async def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    async def unpause(self) -> None:
        self._signal(signal.SIGCONT)

    def usage(self) -> None:
        """Nothing counts it apart from others."""
        return

    def exec_line(self, command: Command) -> None:  # noqa: ARG002
        """It has no container."""
        return

    def release(self) -> None:
        """Stop watching and leave it running: a successor will adopt it. Idempotent."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _kill_tree(self) -> int:
        identity = self._identity
        return Reaper(self._marker, root_process(identity.pid, identity.start_ticks)).run()

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # An adopted one may be our own child: its agent failed, and was replaced.
        found = exit_of_child(self._pidfd)
        if found is None:
            self._ask(_REAPED_WITHIN)
        else:
            self._ended(found)

    def _ask(self, attempts: int) -> None:
        if self._pidfd < 0:
            return
        # One of the two tells, before and after its parent collects it.
        found = self._exit_of_zombie() or exit_of_stranger(self._pidfd)
        if found is None and attempts:
            self._loop.call_later(0.01, self._ask, attempts - 1)
        else:
            self._ended(found or Exit())

    def _exit_of_zombie(self) -> Exit | None:
        status = zombie_status(self._identity.pid, self._identity.start_ticks)
        return None if status is None else exit_of_status(status)

    def _ended(self, how: Exit) -> None:
        os.close(self._pidfd)
        self._pidfd = -1
        if not self._exit.done():
            self._exit.set_result(how)


class HostRuntime:
    """Implements `ports.runtime.Runtime` on this machine; `proc_root` is where /proc is."""

    name = "host"
    contains = False

    def __init__(self, proc_root: Path = PROC) -> None:
        self._proc_root = proc_root

    async def start(self, launch: Launch) -> HostProcess:
        """`codex_missing`, `agent_start_failed`. Cancelled, it leaves no process behind."""
        loop = asyncio.get_running_loop()
        spawning = loop.run_in_executor(None, _spawn, launch, self._proc_root)
        try:
            spawned = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            spawning.add_done_callback(_discard)
            raise
        return HostProcess(spawned.identity, launch.marker, spawned.pidfd)

    def paths(self, project: ProjectId, directory: Path) -> ProjectPaths:  # noqa: ARG002
        """The same for both."""
        return ProjectPaths(directory, directory)

    async def adopt(self, launch: Launch, identity: Identity) -> HostProcess | None:
        """None also for a reused pid, another boot, or a process without the marker."""
        pidfd = await asyncio.to_thread(_find, launch.marker, identity, self._proc_root)
        if pidfd is None:
            return None
        return HostProcess(identity, launch.marker, pidfd)

    async def markers(self, prefix: str) -> set[str]:
        return await asyncio.to_thread(markers, prefix, self._proc_root)

    async def sweep(self, marker: str) -> int:
        return await asyncio.to_thread(_sweep, marker)


def _sweep(marker: str) -> int:
    return Reaper(marker).run()


def _spawn(launch: Launch, proc_root: Path) -> _Spawned:
    try:
        with stdio.opened(launch) as descriptors:
            child = _popen(launch, descriptors)
    except (OSError, ValueError) as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"the app-server cannot be started: {error}"
        ) from error
    spawned = _identified(child, proc_root)
    _await_marker(child, launch.marker, proc_root)
    return spawned


def _popen(launch: Launch, descriptors: list[int]) -> int:
    if not launch.argv:
        raise ValueError("there is nothing to start")
    try:
        child = subprocess.Popen(
            list(launch.argv),
            stdin=descriptors[0],
            stdout=descriptors[1],
            stderr=descriptors[2],
            cwd=str(launch.directory),
            env={**launch.env, MARKER_VARIABLE: launch.marker},
            start_new_session=True,
            close_fds=True,
        )
    except FileNotFoundError as error:
        # Popen names what was missing: the directory to start in, or the binary.
        if error.filename == str(launch.directory):
            raise
        raise SupervisorError(
            ErrorCode.CODEX_MISSING, f"there is no {launch.argv[0]} to start"
        ) from error
    # The exit is collected by pidfd: Popen must neither collect it first nor warn that it lives on,
    # which it does by design when the supervisor ends.
    child.returncode = 0
    return child.pid


def _identified(pid: int, proc_root: Path) -> _Spawned:
    pidfd = os.pidfd_open(pid)
    # A child that has ended at once is a zombie until it is collected, and keeps its ticks.
    ticks = _child_ticks(pid, proc_root)
    return _Spawned(Identity(pid=pid, start_ticks=ticks, boot_id=boot_id(proc_root)), pidfd)


def _await_marker(pid: int, marker: str, proc_root: Path) -> None:
    """Popen returns in the middle of the exec: the environment reads as empty a moment longer, and
    nobody would know the process by its marker."""
    for _ in range(_SEEN_WITHIN):
        ended = start_ticks(pid, proc_root) is None
        if ended or carries_marker(pid, marker, proc_root) is not False:
            return
        time.sleep(0.001)


def _child_ticks(pid: int, proc_root: Path) -> int:
    ticks = start_ticks(pid, proc_root, ended=True)
    assert ticks is not None, "an uncollected child is there"
    return ticks


def _discard(spawning: "asyncio.Future[_Spawned]") -> None:
    """Nobody waits for this start any more: end what it made."""
    if spawning.cancelled() or spawning.exception() is not None:
        return
    pidfd = spawning.result().pidfd
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    exit_of_child(pidfd)
    os.close(pidfd)


def _find(marker: str, identity: Identity, proc_root: Path) -> int | None:
    """A pidfd of exactly that process."""
    if identity.pid <= 1 or identity.boot_id != boot_id(proc_root):
        return None
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    # Looked at with the pidfd in hand: were the pid reused meanwhile, the ticks would differ.
    same = start_ticks(identity.pid, proc_root) == identity.start_ticks
    # Not readable (None) is no proof against it: pid, ticks and boot are identity enough.
    if same and carries_marker(identity.pid, marker, proc_root) is not False:
        return pidfd
    os.close(pidfd)
    return None
