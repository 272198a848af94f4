"""The podman runtime: each app-server in a container of its own, which is the wall around it.

A `PodmanProcess` belongs to the event loop it was made in; podman's command line and the scans run
in threads. The process is known by its init, as the host counts: a pidfd tells of its end. What
podman remembers is asked for, never kept.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.logs import get_logger
from supervisor.policy.places import ProjectPaths
from supervisor.ports.model_access import ModelAccess, Reached
from supervisor.ports.runtime import (
    Command,
    Confinement,
    ExecLine,
    Exit,
    Identity,
    Launch,
    Usage,
)
from supervisor.runtimes import stdio
from supervisor.runtimes.pidfd import has_ended
from supervisor.runtimes.podman_child import PATIENCE
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_exit import exit_of
from supervisor.runtimes.podman_kept import Changed, Kept, read_kept
from supervisor.runtimes.podman_start import (
    SERVICE,
    Started,
    clear,
    left,
    open_init,
    start_container,
    surveyed,
)
from supervisor.runtimes.processes import Reaper, boot_id, markers
from supervisor.runtimes.spec import ContainerSettings, container_name

log = get_logger()

_DEATH_SECONDS: Final = 5.0
"""How long a killed container may take to end before podman is asked to see to it."""


class PodmanProcess:
    """Implements `ports.runtime.Process`. Made by `PodmanRuntime` only, in a running loop."""

    def __init__(
        self, podman: Podman, started: Started, files: Path, removed: Callable[[], object]
    ) -> None:
        self._podman = podman
        self._removed = removed
        self._identity = started.identity
        self._files = files
        self._cgroup = started.cgroup
        self._pidfd = started.pidfd
        self._confinement = started.confinement
        self._outdated = started.outdated
        self._killing = False
        self._oom_seen = self._oom_kills() or 0
        """Commands that ran out of memory at the last look: none of them was the app-server."""
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._released = False
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._on_end)
        else:
            self._learn_exit(None)

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def confinement(self) -> Confinement:
        """As it was found at the start, or at the adoption."""
        return self._confinement

    @property
    def outdated(self) -> str:
        return self._outdated

    async def wait(self) -> Exit:
        """The init passes the app-server's exit on; code 128+n is taken for signal n."""
        return await asyncio.shield(self._exit)

    async def terminate(self) -> None:
        """SIGTERM, which the init hands on to the app-server."""
        self._signal(signal.SIGTERM)
        # A paused one would keep the request waiting.
        await self.unpause()

    async def kill_tree(self) -> int:
        """End the whole container and remove it; its init is not counted.

        A podman that fails is logged, not raised: the processes are dead, and a later sweep takes
        the rest away.
        """
        ended = len(self._cgroup.processes() - {self._identity.pid}) if self._cgroup else 0
        self._killing = True
        # The kernel ends all of a pid namespace with its init.
        self._signal(signal.SIGKILL)
        await self.unpause()
        if not self._released:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    # Before podman forgets how it ended.
                    await asyncio.shield(self._exit)
        await asyncio.to_thread(self._remove)
        return ended

    async def pause(self) -> None:
        """Freeze the container. What podman refuses is logged: the next bound ends the agent."""
        if self._pidfd >= 0:
            await self._attempt("pause")

    async def unpause(self) -> None:
        if self._cgroup is not None and self._cgroup.frozen():
            await self._attempt("unpause")

    def exec_line(self, command: Command) -> ExecLine:
        """By `podman exec`, which runs it as the container's own user."""
        return self._podman.exec_line(self._identity.container, command)

    def release(self) -> None:
        """Stop watching and leave it running: a successor will adopt it. Idempotent."""
        self._released = True
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def usage(self) -> Usage | None:
        """What the container uses now; None once it has ended."""
        usage = self._cgroup.usage() if self._cgroup else None
        if usage is not None:
            self._oom_seen = usage.oom_kills
        return usage

    async def _attempt(self, what: str) -> None:
        container = self._identity.container
        try:
            await asyncio.to_thread(self._podman.ask, what, container)
        except SupervisorError as error:
            if self._pidfd >= 0:
                log.warning("podman_refused", what=what, container=container, error=error.message)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _remove(self) -> None:
        try:
            self._podman.remove(self._identity.container)
        except SupervisorError as error:
            container = self._identity.container
            log.warning("container_left", container=container, error=error.message)
            return
        shutil.rmtree(self._files, ignore_errors=True)
        self._removed()

    def _oom_kills(self) -> int | None:
        return self._cgroup.oom_kills() if self._cgroup else None

    def _on_end(self) -> None:
        # First of all: podman takes the cgroup away within a tenth of a second.
        self._learn_exit(self._oom_kills())

    def _learn_exit(self, oom_kills: int | None) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
        oom = None if oom_kills is None else oom_kills > self._oom_seen
        if oom is None and self._oom_seen == 0:
            # conmon's sign does not tell when: none before the last look that saw none.
            oom = (self._files / "oom").exists()
        # The descriptor is the thread's from here on.
        asking = partial(exit_of, self._podman, self._identity.container, self._pidfd)
        self._pidfd = -1
        found = self._loop.run_in_executor(None, asking, bool(oom))
        found.add_done_callback(self._told)

    def _told(self, found: "asyncio.Future[Exit]") -> None:
        if self._exit.done():
            return
        failed = found.cancelled() or found.exception() is not None
        how = Exit() if failed else found.result()
        if how.oom and self._killing:
            how = Exit(code=how.code, signal=how.signal)
        self._exit.set_result(how)


class PodmanRuntime:
    """Implements `ports.runtime.Runtime` with podman.

    `settings_for` decides about one container, and `removed` is told the marker of one that is
    gone, both in a thread; `changed` says what the settings have otherwise than a container that
    is found again. `run_dir` is ours alone; each container
    has a directory in it, and so has podman's service. `environment` is all that podman gets of
    ours. At most 2 x cores starts at once is the caller's business.
    """

    name = "podman"
    contains = True

    def __init__(
        self,
        settings_for: Callable[[Launch], ContainerSettings],
        run_dir: Path,
        environment: Mapping[str, str],
        *,
        paths: Callable[[ProjectId, Path], ProjectPaths] = lambda _, host: ProjectPaths(host, host),
        access: ModelAccess | None = None,
        removed: Callable[[str], object] = lambda _: None,
        changed: Callable[[Launch, Kept], Changed] = lambda _, __: Changed(),
        program: str = "podman",
        patience: float = PATIENCE,
    ) -> None:
        self.paths = paths
        self._access = access
        self._removed = removed
        self._changed = changed
        self._settings_for = settings_for
        self._run_dir = run_dir
        self._podman = Podman(
            environment, program=program, patience=patience, directory=run_dir / SERVICE
        )

    async def start(self, launch: Launch) -> PodmanProcess:
        """Returns once the container runs, a tenth of a second. Cancelled, it leaves none behind:
        what podman is about to start is ended as soon as it can be."""
        unwanted = threading.Event()
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(None, self._start, launch, unwanted)
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            unwanted.set()
            starting.add_done_callback(partial(self._discard, launch.marker))
            raise
        try:
            await self._let_reach(launch, started)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._end, launch.marker, started))
            raise
        return self._process(launch, started)

    async def adopt(self, launch: Launch, identity: Identity) -> PodmanProcess | None:
        """None also for a reused pid, another boot, or a container without the marker."""
        started = await asyncio.to_thread(self._find, launch, identity)
        if started is None:
            return None
        try:
            await self._let_reach(launch, started)
        except SupervisorError as error:
            # Its turns fail for want of a model, and say so; the link goes on trying.
            log.warning("model_unreachable", marker=launch.marker, error=error.message)
        return self._process(launch, started)

    def _process(self, launch: Launch, started: Started) -> PodmanProcess:
        files, removed = self._files(launch.marker), partial(self._removed, launch.marker)
        return PodmanProcess(self._podman, started, files, removed)

    async def _let_reach(self, launch: Launch, started: Started) -> None:
        """Give it the model, unless it has ended already: its end is told by its exit."""
        if self._access is None or has_ended(started.pidfd):
            return
        reached = Reached(
            project=launch.project,
            generation=launch.generation,
            marker=launch.marker,
            pid=started.identity.pid,
            start_ticks=started.identity.start_ticks,
        )
        try:
            await self._access.open(reached)
        except SupervisorError:
            if not has_ended(started.pidfd):
                raise

    async def markers(self, prefix: str) -> set[str]:
        """Of containers in whatever state, and of starts under way."""
        return await asyncio.to_thread(self._markers, prefix)

    async def sweep(self, marker: str) -> int:
        """End and remove every container of `marker`; inits are not counted. Also what runs under
        that marker outside of any, from a time when the runtime was another."""
        if not marker:
            raise ValueError("an empty marker is nobody's")
        if self._access is not None:
            await self._access.close(marker)
        ended = await asyncio.to_thread(self._clear, marker)
        return ended + await asyncio.to_thread(Reaper(marker).run)

    async def clear(self, prefix: str) -> None:
        """Sweep every container whose marker begins with `prefix`, and nothing else: for a time
        when the runtime is another. `agent_start_failed`; then some are there still."""
        for marker in await asyncio.to_thread(left, self._podman, self._run_dir, prefix):
            await self.sweep(marker)

    def close(self) -> None:
        """End podman's service, which ends itself a little later. Blocks; containers run on."""
        self._podman.close()

    def _files(self, marker: str) -> Path:
        return self._run_dir / container_name(marker)

    def _start(self, launch: Launch, unwanted: threading.Event) -> Started:
        settings = self._settings_for(launch)
        try:
            started = start_container(self._podman, settings, launch, self._run_dir)
        except BaseException:
            self._removed(launch.marker)
            raise
        if unwanted.is_set():
            # Here, if it can be: the loop may be closing.
            self._end(launch.marker, started)
            raise SupervisorError(ErrorCode.AGENT_START_FAILED, "the start was given up")
        return started

    def _discard(self, marker: str, starting: "asyncio.Future[Started]") -> None:
        """Nobody waits for this start any more: end what it made, unless its thread has."""
        if starting.cancelled() or starting.exception() is not None:
            return
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._end, marker, starting.result())

    def _end(self, marker: str, started: Started) -> None:
        with contextlib.suppress(OSError):
            os.close(started.pidfd)
        self._clear(marker)

    def _clear(self, marker: str) -> int:
        ended = clear(self._podman, marker, self._run_dir)
        self._removed(marker)
        return ended

    def _find(self, launch: Launch, identity: Identity) -> Started | None:
        if identity.pid <= 1 or not identity.start_ticks or identity.boot_id != boot_id():
            return None
        container = self._container(launch.marker)
        if container is None or identity.container not in ("", container):
            return None
        with contextlib.suppress(FileNotFoundError):
            # A predecessor may have been killed before it did so.
            stdio.take_back(launch)
        found = open_init(identity.pid, container)
        if found is None:
            return None
        pidfd, ticks, cgroup = found
        if ticks != identity.start_ticks:
            os.close(pidfd)
            return None
        same = msgspec.structs.replace(identity, container=container)
        files = self._files(launch.marker)
        return self._compared(launch, surveyed(self._podman, same, cgroup, pidfd, files))

    def _compared(self, launch: Launch, started: Started) -> Started:
        kept = read_kept(self._files(launch.marker))
        if kept is None:
            return started
        found, changed = started.confinement, self._changed(launch, kept)
        told = msgspec.structs.replace(found, doubts=(*found.doubts, *changed.doubts))
        return replace(started, confinement=told, outdated=changed.outdated)

    def _container(self, marker: str) -> str | None:
        """The full id: as podman left it with us at the start, else as podman says now."""
        try:
            return (self._files(marker) / "cid").read_text().strip()
        except OSError:
            found = (c.id for c in self._podman.containers() if c.marker == marker)
            return next(found, None)

    def _markers(self, prefix: str) -> set[str]:
        return left(self._podman, self._run_dir, prefix) | markers(prefix)
