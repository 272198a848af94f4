"""From the settings and a launch to the settings of one container: what `podman` runs by.

Looks at the disk, and makes what a container mounts: the copies of Codex and of the init, the
pinned configuration, and the project's CODEX_HOME. Blocking.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.policy.pinned import config_toml, requirements_toml
from supervisor.policy.places import ProjectPaths
from supervisor.ports.runtime import Launch
from supervisor.runtimes import rootless
from supervisor.runtimes.codex_home import give_home, make_home, make_way
from supervisor.runtimes.containers_conf import INITS
from supervisor.runtimes.copies import codex_copy, init_copy
from supervisor.runtimes.disk import DiskBounds
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_kept import Changed, Kept, changed
from supervisor.runtimes.spec import (
    CODEX_BINARY,
    ContainerSettings,
    ExtraMount,
    Limits,
)
from supervisor.settings import Settings
from supervisor.settings_groups import PodmanSettings, ProjectSettings

COMMAND: Final = (str(CODEX_BINARY),)
"""What a launch in a container starts, without `app-server`."""
ENVIRONMENT: Final[Mapping[str, str]] = {"LANG": "C.UTF-8"}
"""All that an app-server in a container gets; the image's own PATH goes with it."""
_LIMITS: Final = tuple(Limits.__struct_fields__)


class Containing:
    """One per supervisor. `state_dir` and the copies in it are the supervisor's alone."""

    def __init__(
        self,
        settings: Settings,
        codex: Callable[[], Path],
        disk: DiskBounds,
        podman: Podman | None = None,
    ) -> None:
        """Without root, `podman` gives the copies to another uid than the agent's."""
        self._settings = settings
        self._podman = podman
        self._codex = codex
        self._disk = disk
        self._root = settings.state_dir / "podman"
        self._copying = threading.Lock()
        self._copied: tuple[Path, Path] | None = None

    def paths(self, project: ProjectId, directory: Path) -> ProjectPaths:
        """At its own path, unless `mount_point` says otherwise."""
        podman = self._settings.podman
        own = _own(podman, project, directory)
        return ProjectPaths(directory, own.mount_point or podman.mount_point or directory)

    def changed(self, launch: Launch, kept: Kept) -> Changed:
        """What the settings have otherwise by now than a container that was started with `kept`."""
        paths = self.paths(launch.project, launch.directory)
        return changed(kept, self._settings, paths.inside)

    def settings_for(self, launch: Launch) -> ContainerSettings:
        """All that is decided about the container of `launch`.

        `project_path_refused` for a project that root owns, `codex_missing`,
        `agent_start_failed`.
        """
        podman = self._settings.podman
        own = _own(podman, launch.project, launch.directory)
        uid, gid = self._owner(launch.directory)
        codex, init = self._copies()
        paths = self.paths(launch.project, launch.directory)
        home = self._disk.home(launch.project)
        make_home(home, uid, gid)
        self._disk.prepare(launch.project, launch.directory, launch.marker)
        give_home(home, uid, gid)
        make_way(home)
        return ContainerSettings(
            image=own.image or podman.image,
            uid=uid,
            gid=gid,
            codex_folder=codex,
            init=init,
            codex_home=home,
            state_dir=self._settings.state_dir,
            requirements=self._pinned("requirements.toml", requirements_toml, launch),
            config=self._pinned("config.toml", config_toml, launch),
            limits=_limits(podman, own),
            extra_mounts=tuple(
                ExtraMount(source=m.source, destination=m.destination, writable=m.writable)
                for m in podman.extra_mounts
            ),
            mount_point=None if paths.inside == paths.host else paths.inside,
            userns=rootless.KEEP_ID if rootless.is_rootless() else "",
            require_limits=podman.require_limits,
        )

    def _owner(self, directory: Path) -> tuple[int, int]:
        """Whose uid the agent runs as: the settings', else the project's owner's; never root.

        Without root it is ours: podman maps no other.
        """
        podman = self._settings.podman
        try:
            status = directory.stat(follow_symlinks=False)
        except OSError as error:
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED, f"there is no directory {directory}: {error.strerror}"
            ) from error
        if stat.S_ISLNK(status.st_mode):
            raise SupervisorError(
                ErrorCode.PROJECT_PATH_REFUSED, f"{directory} is a symlink, and was none before"
            )
        if rootless.is_rootless():
            return os.geteuid(), os.getegid()
        uid = podman.uid or status.st_uid
        if uid == 0:
            raise SupervisorError(
                ErrorCode.PROJECT_PATH_REFUSED,
                f"{directory} belongs to root, and a container never runs as root",
                hint="Give it to an ordinary user: chown -R USER DIRECTORY.",
            )
        return uid, podman.gid or status.st_gid or uid

    def _copies(self) -> tuple[Path, Path]:
        """Of Codex's folder and of the init, hashed once in the supervisor's life."""
        with self._copying:
            if self._copied is None:
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                root = self._root / "copies"
                codex = self._codex().resolve()
                init = init_binary(self._settings.podman.init_bin)
                if self._podman is not None and rootless.is_rootless():
                    self._copied = rootless.copies(self._podman, codex, init, root)
                else:
                    self._copied = codex_copy(codex, root), init_copy(init, root)
            return self._copied

    def _pinned(self, name: str, written: Callable[..., str], launch: Launch) -> Path:
        """The file of that text; each text has a file of its own, which running ones still have."""
        text = written(self._settings, walled=launch.walled)
        directory = self._root / "pinned"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = directory / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{name}"
        if not path.exists() or path.read_text() != text:
            fresh = directory / f".{path.name}.{threading.get_ident()}"
            fresh.write_text(text)
            fresh.chmod(0o644)
            fresh.replace(path)
        return path


def _own(podman: PodmanSettings, project: ProjectId, directory: Path) -> ProjectSettings:
    found = podman.projects.get(project) or podman.projects.get(str(directory))
    return found or ProjectSettings()


def _limits(podman: PodmanSettings, own: ProjectSettings) -> Limits:
    said = {name: getattr(own, name) or getattr(podman.limits, name) for name in _LIMITS}
    # More than there are is refused by the kernel.
    said["cpus"] = min(said["cpus"], float(os.cpu_count() or 1))
    return msgspec.convert(said, Limits)


def init_binary(told: Path | None) -> Path:
    """The real path of `told` (the setting), else of podman's own init. `agent_start_failed`."""
    candidates = [told] if told else [Path(path) for path in INITS]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            "catatonit, the init of containers, is not installed",
            hint="Install catatonit, or name it in podman.init_bin.",
            retryable=False,
        )
    return found.resolve()
