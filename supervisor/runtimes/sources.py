"""What podman is asked to mount, as it is on disk: looked at before the start, and again after.

Podman follows symlinks in the source of a bind mount. So a source must be its own real path, and
where it is ours, nobody but us may be able to replace anything above it. What could still be
swapped between the look and the mount is caught by `check_mounted`: the directory inside must be
the very one that was looked at, which `held` keeps open meanwhile.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Launch
from supervisor.runtimes.processes import PROC
from supervisor.runtimes.spec import CODEX_MOUNT, HOME_MOUNT, ContainerSettings, project_mount

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Held = dict[Path, tuple[int, int]]
"""Where in the container, and the device and inode that must be there."""


@contextmanager
def held(settings: ContainerSettings, launch: Launch) -> Iterator[Held]:
    """The two directories the agent writes in, checked and held open.

    Blocks. `project_path_refused`, `state_directory_unsafe`, `settings_invalid`, `codex_missing`,
    `agent_start_failed`.
    """
    _check_codex(settings, launch)
    for mount in settings.extra_mounts:
        if why := _doubt(mount.source) or _replaceable(mount.source, settings):
            raise SupervisorError(ErrorCode.SETTINGS_INVALID, f"{mount.source} {why}")
    found: Held = {}
    descriptors: list[int] = []
    try:
        for source, destination in (
            (_checked_project(settings, launch), project_mount(settings, launch.directory)),
            (_checked_home(settings), HOME_MOUNT),
        ):
            descriptors.append(os.open(source, _DIRECTORY))
            status = os.fstat(descriptors[-1])
            found[destination] = (status.st_dev, status.st_ino)
        yield found
    finally:
        for fd in descriptors:
            os.close(fd)


def check_mounted(pid: int, expected: Held, proc_root: Path = PROC) -> None:
    """`project_path_refused` if the container of init `pid` has other directories than expected.

    Raises OSError once that process has ended.
    """
    for destination, identity in expected.items():
        status = (proc_root / str(pid) / "root" / str(destination).lstrip("/")).lstat()
        if (status.st_dev, status.st_ino) != identity:
            raise SupervisorError(
                ErrorCode.PROJECT_PATH_REFUSED,
                f"{destination} was replaced by another directory while the container started",
            )


def _checked_project(settings: ContainerSettings, launch: Launch) -> Path:
    directory = launch.directory
    if not directory.is_dir():
        raise SupervisorError(ErrorCode.AGENT_START_FAILED, f"there is no directory {directory}")
    why = _doubt(directory)
    if not why and (owner := directory.stat().st_uid) != settings.uid:
        why = f"belongs to uid {owner}, not to {settings.uid}"
    if why:
        raise SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, f"{directory} {why}")
    return directory


def _checked_home(settings: ContainerSettings) -> Path:
    home = settings.codex_home
    why = _doubt(home) or _replaceable(home, settings)
    if not why and (not home.is_dir() or home.stat().st_uid != settings.uid):
        why = f"must be a directory of uid {settings.uid}"
    if why:
        raise SupervisorError(
            ErrorCode.STATE_DIRECTORY_UNSAFE, f"{home} {why}", hint="Move it, or mend its owner."
        )
    return home


def _check_codex(settings: ContainerSettings, launch: Launch) -> None:
    """That what holds the stdio can be run by the agent's uid and not read by it (D5)."""
    binary = Path(launch.argv[0])
    programs = [settings.init]
    if binary.is_relative_to(CODEX_MOUNT):
        programs.append(settings.codex_folder / binary.relative_to(CODEX_MOUNT))
    for path in programs:
        if not path.is_file():
            raise SupervisorError(ErrorCode.CODEX_MISSING, f"there is no {path} to start")
        if path.stat().st_mode & 0o066 or not path.stat().st_mode & stat.S_IXOTH:
            raise _unsafe_copy(f"{path} must have mode 0711")
    read_only = [settings.codex_folder, settings.init, settings.requirements, settings.config]
    for path in [path for path in read_only if path is not None]:
        if why := _doubt(path) or _replaceable(path, settings) or _writable(path, settings):
            raise _unsafe_copy(f"{path} {why}")


def _unsafe_copy(message: str) -> SupervisorError:
    return SupervisorError(
        ErrorCode.STATE_DIRECTORY_UNSAFE,
        message,
        hint="Remove the copy: it is made again at the next start.",
    )


def _doubt(path: Path) -> str:
    """What is wrong with it as the source of a mount, or ""."""
    if not path.exists():
        return "is not there"
    real = os.path.realpath(path)
    return "" if real == str(path) else f"leads elsewhere by a symlink: {real}"


def _replaceable(path: Path, settings: ContainerSettings) -> str:
    """Whether the agent's uid could put something else in its place."""
    child = path
    for parent in path.parents:
        if _writable(parent, settings) and not _sticky_keeps(parent, child, settings):
            return f"could be replaced by the agent's user, who can write in {parent}"
        child = parent
    return ""


def _writable(path: Path, settings: ContainerSettings) -> str:
    if settings.userns:
        # Its user is ours. It reaches what is mounted for it and no more, and `spec.check` keeps
        # what is ours out of that.
        return ""
    status = path.stat()
    mode = status.st_mode
    if (
        status.st_uid == settings.uid
        or mode & stat.S_IWOTH
        or (mode & stat.S_IWGRP and status.st_gid == settings.gid)
    ):
        return "can be written by the agent's user"
    return ""


def _sticky_keeps(parent: Path, child: Path, settings: ContainerSettings) -> bool:
    status = parent.stat()
    sticky = bool(status.st_mode & stat.S_ISVTX) and status.st_uid != settings.uid
    return sticky and child.lstat().st_uid != settings.uid
