"""One start of a container, from a launch to its init's pidfd; and the end of what a start left.

Blocking, in a thread. The command line starts it, not podman's API: only `podman run` hands its own
stdio on to the container (the log driver passthrough). So podman's complaints are in the
container's stderr, which is where they are looked for.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.ports.runtime import Confinement, Identity, Launch
from supervisor.runtimes import sources, stdio
from supervisor.runtimes.cgroups import Cgroup, cgroup_of
from supervisor.runtimes.confinement import confinement, examined, require_limits, unknown
from supervisor.runtimes.pidfd import has_ended
from supervisor.runtimes.podman_child import last_words
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_kept import Kept, keep, kept_of, read_kept
from supervisor.runtimes.podman_records import Container
from supervisor.runtimes.processes import PROC, boot_id, carries_marker, start_ticks
from supervisor.runtimes.seccomp import tightened_file
from supervisor.runtimes.spec import (
    CODEX_BINARY,
    ContainerSettings,
    check,
    container_name,
    run_argv,
)

log = get_logger()

_IN_FLIGHT_SECONDS: Final = 10.0
"""How long a `podman run` of a dead supervisor may go on. Left alone, it leaves less behind."""
_COMPLAINT_BYTES: Final = 4096

SERVICE: Final = "service"
"""In the run directory, beside those of containers: podman's API service."""
_MARKER: Final = "marker"
"""In a container's: whose it is. A half-made container has no label to tell."""

_TAKEN: Final = "is already in use"
# What podman says, and what a person does about it.
_HINTS: Final = (
    ("image not known", "Build the image (images/agent/build), or name one that is there."),
    (_TAKEN, "Remove or rename the container of that name."),
    ("set memory limit", "Raise the limit memory_bytes: not even the container's init fits."),
    ("CPU", "Set the limit cpus to what this machine has."),
    ("rlimit", "Name a containers.conf with limits this machine grants in CONTAINERS_CONF."),
    ("cgroup", "See whether this machine's cgroups grant the limits; try the other OCI runtime."),
)


@dataclass(frozen=True, slots=True)
class Started:
    """A container that was started; `pidfd` is its init's, -1 if that has ended already."""

    identity: Identity
    cgroup: Cgroup | None
    pidfd: int
    confinement: Confinement
    outdated: str = ""
    """Why it is to be started anew, of one that was found again."""


def start_container(
    podman: Podman, settings: ContainerSettings, launch: Launch, run_dir: Path
) -> Started:
    """Start it; nothing half made stays. Raises what `Runtime.start` raises."""
    files = run_dir / container_name(launch.marker)
    check(settings, launch)
    sort = podman.sort()
    if sort.seccomp:
        settings = msgspec.structs.replace(settings, seccomp=files / "seccomp.json")
    argv = run_argv(settings, launch, files)
    try:
        with sources.held(settings, launch) as expected, stdio.opened(launch) as descriptors:
            try:
                kept = kept_of(settings, launch, sort)
                _make(files, launch.marker, kept, sort.seccomp)
                try:
                    _run(podman, argv, descriptors, files, launch)
                except _NameTakenError:
                    # By one of ours from a former life, of a store that was restored, say; nobody
                    # else's is cleared, and then it is refused again.
                    clear(podman, launch.marker, run_dir)
                    _make(files, launch.marker, kept, sort.seccomp)
                    _run(podman, argv, descriptors, files, launch)
                started = _found(podman, files, Path(launch.argv[0]))
                _check(started, expected, settings)
            except BaseException:
                _clear_failed(podman, launch.marker, run_dir)
                raise
            return started
    except (OSError, ValueError) as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"the container cannot be started: {error}"
        ) from error


def _make(files: Path, marker: str, kept: Kept, profile: str) -> None:
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(mode=0o700, parents=True)
    (files / _MARKER).write_text(marker)
    keep(files, kept)
    if profile:
        (files / "seccomp.json").write_bytes(tightened_file(Path(profile)))


def _clear_failed(podman: Podman, marker: str, run_dir: Path) -> None:
    """What failed is told, not that podman fails still: then a later sweep clears."""
    try:
        clear(podman, marker, run_dir)
    except SupervisorError as error:
        log.warning("container_left", marker=marker, error=error.message)


def _run(
    podman: Podman, argv: Sequence[str], descriptors: Sequence[int], files: Path, launch: Launch
) -> None:
    before = os.fstat(descriptors[2]).st_size
    try:
        status = podman.launch(argv, descriptors, files, launch.marker)
    finally:
        # The OCI runtime gave them to the container's uid, who could open them again (D5).
        stdio.take_back(launch)
    if status < 0:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"podman was ended by signal {-status} as it started it"
        )
    if status != 0:
        raise _refused(_written(launch.stderr, before))


def _written(stderr: Path, before: int) -> str:
    with stderr.open("rb") as file:
        file.seek(max(before, file.seek(0, os.SEEK_END) - _COMPLAINT_BYTES))
        return file.read().decode(errors="replace")


class _NameTakenError(SupervisorError):
    """There is a container of that name."""


def _refused(complaint: str) -> SupervisorError:
    words = last_words(complaint)
    hint = next((hint for sign, hint in _HINTS if sign in words), None)
    kind = _NameTakenError if _TAKEN in words else SupervisorError
    return kind(ErrorCode.AGENT_START_FAILED, f"podman refused: {words}", hint=hint)


def _found(podman: Podman, files: Path, app_server: Path) -> Started:
    container = (files / "cid").read_text().strip()
    pid = int((files / "pid").read_text())
    identity = Identity(pid=pid, start_ticks=0, boot_id=boot_id(), container=container)
    found = open_init(pid, container)
    if found is None:
        return Started(identity, None, -1, unknown(container))
    pidfd, ticks, cgroup = found
    identity = msgspec.structs.replace(identity, start_ticks=ticks)
    return surveyed(podman, identity, cgroup, pidfd, files, app_server=app_server)


def surveyed(
    podman: Podman,
    identity: Identity,
    cgroup: Cgroup | None,
    pidfd: int,
    files: Path,
    *,
    app_server: Path = CODEX_BINARY,
) -> Started:
    """A container that runs, with what stands around it. Podman is asked only if nothing was
    kept; one that does not answer leaves that unknown."""
    kept = read_kept(files)
    try:
        sort = kept or podman.sort()
        facts = examined(
            identity.container,
            identity.pid,
            cgroup,
            rootless=sort.rootless,
            cgroups=sort.cgroups,
            asked=kept.limits if kept else None,
            app_server=app_server,
        )
    except OSError:
        return Started(identity, cgroup, pidfd, unknown(identity.container))
    except SupervisorError as error:
        return Started(identity, cgroup, pidfd, unknown(identity.container, error.message))
    return Started(identity, cgroup, pidfd, confinement(facts))


def open_init(pid: int, container: str) -> tuple[int, int, Cgroup | None] | None:
    """A pidfd, the start ticks and the cgroup of the live process `pid` of that container.

    Rootless with cgroup version 1, a container has no cgroup of its own.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # Looked at with the pidfd in hand: were the pid reused meanwhile, it would be elsewhere.
    ticks = start_ticks(pid)
    cgroup = cgroup_of(pid, container)
    if ticks is None or (cgroup is None and not _has_its_mounts(pid, container)):
        os.close(pidfd)
        return None
    return pidfd, ticks, cgroup


def _has_its_mounts(pid: int, container: str) -> bool:
    """Whether the process sees files that podman keeps for that container alone."""
    try:
        return container in (PROC / str(pid) / "mountinfo").read_text(errors="replace")
    except OSError:
        return False


def _check(started: Started, expected: sources.Held, settings: ContainerSettings) -> None:
    if started.pidfd < 0:
        return
    try:
        sources.check_mounted(started.identity.pid, expected)
        if settings.require_limits and not has_ended(started.pidfd):
            require_limits(started.confinement)
    except OSError:
        return  # it has ended: nothing of it runs
    except SupervisorError:
        os.close(started.pidfd)
        raise


def left(podman: Podman, run_dir: Path, prefix: str) -> set[str]:
    """The markers that begin with `prefix` of all that is there of containers: one in whatever
    state, or the files of one that is half made or has gone."""
    found = {container.marker for container in podman.containers()} | noted(run_dir)
    return {marker for marker in found if marker.startswith(prefix)}


def noted(run_dir: Path) -> set[str]:
    """The markers of all containers that have files there. Asks nobody."""
    found = set()
    for note in run_dir.glob(f"*/{_MARKER}"):
        with contextlib.suppress(OSError):
            found.add(note.read_text())
    return found


def clear(podman: Podman, marker: str, run_dir: Path) -> int:
    """End all that carries `marker`, and forget it; return how many processes there were.

    Also a `podman run` that a dead supervisor left under way, and what it had half made.
    """
    _end_launches(podman, marker)
    ended = 0
    for container in podman.containers():
        if container.belongs_to(marker):
            ended += _members(container)
            podman.remove(container.id)
    files = run_dir / container_name(marker)
    shutil.rmtree(files, ignore_errors=True)
    return ended


def _members(container: Container) -> int:
    cgroup = cgroup_of(container.pid, container.id) if container.pid else None
    # The init is podman's, not the generation's.
    return max(0, len(cgroup.processes()) - 1) if cgroup else 0


def _end_launches(podman: Podman, marker: str) -> None:
    name = Path(podman.program).name
    launches = [process for process in psutil.process_iter() if _is(process, name, marker)]
    _, left = psutil.wait_procs(launches, timeout=_IN_FLIGHT_SECONDS)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_IN_FLIGHT_SECONDS)


def _is(process: psutil.Process, name: str, marker: str) -> bool:
    try:
        return process.name() == name and bool(carries_marker(process.pid, marker))
    except psutil.Error:
        return False
