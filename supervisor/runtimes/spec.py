"""From settings and a launch to the exact `podman run` line. Pure; `sources` looks at the disk.

Facts behind each option are in docs/architecture.md. The line is the wall: whoever changes it runs
the escape suite.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE, Launch

CODEX_MOUNT: Final = Path("/opt/codex")
CODEX_BINARY: Final = CODEX_MOUNT / "bin" / "codex"
HOME_MOUNT: Final = Path("/codex")
"""CODEX_HOME inside. Always the same: Codex stores absolute paths in it."""
REQUIREMENTS_MOUNT: Final = Path("/etc/codex/requirements.toml")
CONFIG_MOUNT: Final = Path("/etc/codex/config.toml")
USER_CONFIG_MOUNT: Final = HOME_MOUNT / "config.toml"
"""The same file again: one that the agent could write would have Codex run programs for it."""
MARKER_LABEL: Final = "codex-supervisor.marker"
REFUSING_PROXY: Final = "http://127.0.0.1:9"
"""Nobody listens there. Without any, Codex spends seconds at its end in names it cannot resolve."""

# Not to be covered by a mount of ours, nor by one above it.
_KEPT = (
    *(Path(p) for p in ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc")),
    *(Path(p) for p in ("/run", "/sbin", "/sys", "/tmp", "/usr", "/var")),  # noqa: S108
    HOME_MOUNT,
    CODEX_MOUNT,
)
# Nor is anything to be put below these.
_CLOSED = (
    *(Path(p) for p in ("/dev", "/proc", "/sys", "/etc/codex", "/run/podman-init")),
    HOME_MOUNT,
    CODEX_MOUNT,
)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one container may use. Bytes; `cpus` in processors. Zero, no limit, is refused."""

    memory_bytes: int = 1 << 30
    """There is no swap beside it."""
    pids: int = 256
    cpus: float = 1.5
    tmp_bytes: int = 256 << 20
    """Of /tmp, which is memory, and counts as such."""
    shm_bytes: int = 16 << 20


class ExtraMount(msgspec.Struct, frozen=True, kw_only=True):
    """One more bind mount, from the operator's settings. Paths are absolute."""

    source: Path
    destination: Path
    writable: bool = False


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that is decided about one project's container. Paths are the host's, and absolute."""

    image: str
    uid: int
    """Of the project's owner, inside and outside; never root."""
    gid: int
    codex_folder: Path
    """A copy made by `copies`: root's, its binaries 0711 (D5)."""
    init: Path
    """catatonit, likewise."""
    codex_home: Path
    """The project's own; the agent's uid owns it, and nobody but root what is above it."""
    state_dir: Path
    """The supervisor's: no project or mount may hold it or be in it, codex_home excepted."""
    requirements: Path | None = None
    config: Path | None = None
    seccomp: Path | None = None
    """None: podman's own, where it filters system calls at all."""
    limits: Limits = Limits()
    extra_mounts: Sequence[ExtraMount] = ()
    mount_point: Path | None = None
    """Where the project is inside; None: at its own path."""
    hostname: str = "agent"
    https_proxy: str = REFUSING_PROXY
    userns: str = ""
    """`keep-id` where podman runs without root: then `uid` is the supervisor's own."""
    require_limits: bool = False
    """Refuse to start where podman takes the limits and nothing enforces them."""


def container_name(marker: str) -> str:
    """The one name a generation's container can have."""
    return f"codex-supervisor-{hashlib.sha256(marker.encode()).hexdigest()[:24]}"


def project_mount(settings: ContainerSettings, directory: Path) -> Path:
    """Where the project is inside the container."""
    return settings.mount_point or directory


def run_argv(settings: ContainerSettings, launch: Launch, files: Path) -> list[str]:
    """The arguments of podman that start `launch`.

    `files` is a directory of this container alone: podman leaves `cid` and `pid` there. The three
    stdio files are podman's own stdio. Raises what `check` raises.
    """
    check(settings, launch)
    return [
        *("run", "-d", "-i", "--log-driver", "passthrough", "--pull", "never"),
        *("--name", container_name(launch.marker)),
        *("--cidfile", str(files / "cid"), "--pidfile", str(files / "pid")),
        *_labels(launch),
        *_hardening(settings),
        *_limits(settings.limits),
        *_environment(settings, launch),
        *_mounts(settings, launch),
        *("--workdir", str(project_mount(settings, launch.directory))),
        # Not the image's own: it would be run around ours.
        *("--entrypoint", launch.argv[0]),
        settings.image,
        *launch.argv[1:],
    ]


def _labels(launch: Launch) -> list[str]:
    labels = {
        MARKER_LABEL: launch.marker,
        "codex-supervisor.project": launch.project,
        "codex-supervisor.generation": str(launch.generation),
    }
    return [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]


def _hardening(settings: ContainerSettings) -> list[str]:
    return [
        # Codex as PID 1 would leave zombies; podman's own init is readable, hence dumpable (D5).
        *("--init", "--init-path", str(settings.init)),
        *("--network", "none", "--no-hosts", "--http-proxy=false"),
        *([f"--userns={settings.userns}"] if settings.userns else []),
        *("--user", f"{settings.uid}:{settings.gid}"),
        *("--cap-drop=all", "--security-opt=no-new-privileges"),
        *([f"--security-opt=seccomp={settings.seccomp}"] if settings.seccomp else []),
        *("--read-only", "--read-only-tmpfs=false"),
        # An image's volumes would be writable, and bounded by nothing.
        *("--image-volume", "ignore", "--no-healthcheck", "--systemd=false"),
        *("--hostname", settings.hostname, "--stop-timeout", "5"),
    ]


def _limits(limits: Limits) -> list[str]:
    tmp = f"/tmp:rw,nosuid,nodev,size={limits.tmp_bytes},mode=1777"  # noqa: S108
    return [
        *("--memory", f"{limits.memory_bytes}b", "--memory-swap", f"{limits.memory_bytes}b"),
        *("--pids-limit", str(limits.pids), "--cpus", f"{limits.cpus:g}"),
        *("--shm-size", f"{limits.shm_bytes}b", "--tmpfs", tmp),
    ]


def _environment(settings: ContainerSettings, launch: Launch) -> list[str]:
    variables = {
        **launch.env,
        "CODEX_HOME": str(HOME_MOUNT),
        "HOME": str(HOME_MOUNT),
        "HTTPS_PROXY": settings.https_proxy,
        MARKER_VARIABLE: launch.marker,
    }
    return [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]


def _mounts(settings: ContainerSettings, launch: Launch) -> list[str]:
    project = project_mount(settings, launch.directory)
    mounts = [
        ExtraMount(source=launch.directory, destination=project, writable=True),
        ExtraMount(source=settings.codex_home, destination=HOME_MOUNT, writable=True),
        ExtraMount(source=settings.codex_folder, destination=CODEX_MOUNT),
    ]
    for source, destination in (
        (settings.requirements, REQUIREMENTS_MOUNT),
        (settings.config, CONFIG_MOUNT),
        (settings.config, USER_CONFIG_MOUNT),
    ):
        if source is not None:
            mounts.append(ExtraMount(source=source, destination=destination))
    mounts += settings.extra_mounts
    return [part for mount in mounts for part in ("--mount", _mount(mount))]


def _mount(mount: ExtraMount) -> str:
    # A plain -v would add neither nosuid nor nodev.
    fields = ["type=bind", f"src={mount.source}", f"dst={mount.destination}"]
    fields += [*([] if mount.writable else ["ro=true"]), "nosuid", "nodev"]
    return ",".join(_quoted(field) for field in fields)


def _quoted(field: str) -> str:
    """As podman reads a mount: a line of CSV."""
    if "," not in field and '"' not in field:
        return field
    return '"' + field.replace('"', '""') + '"'


# -- what is refused


def check(settings: ContainerSettings, launch: Launch) -> None:
    """Refuse what no container may be made of.

    `project_path_refused`, `state_directory_unsafe`, `settings_invalid`, and `agent_start_failed`
    for a launch of nothing.
    """
    if not launch.argv:
        raise SupervisorError(ErrorCode.AGENT_START_FAILED, "there is nothing to start")
    if settings.uid <= 0 or settings.gid <= 0:
        raise _invalid(
            "a container never runs as root", "Give the project to an ordinary user (chown)."
        )
    _check_limits(settings.limits)
    _check_image(settings.image)
    _check_project(settings, launch.directory)
    _check_state(settings, launch)
    taken = [project_mount(settings, launch.directory)]
    for mount in settings.extra_mounts:
        _check_extra(mount, settings, launch.directory, taken)
        taken.append(mount.destination)


def _check_limits(limits: Limits) -> None:
    for name in limits.__struct_fields__:
        if getattr(limits, name) <= 0:
            raise _invalid(f"the limit {name} must be more than 0", "0 would mean no limit.")


def _check_image(image: str) -> None:
    if not image or image.startswith("-") or any(c.isspace() or c == "\0" for c in image):
        raise _invalid(f"{image!r} is no image", "Name one that `podman images` shows.")


def _check_project(settings: ContainerSettings, directory: Path) -> None:
    destination = project_mount(settings, directory)
    for path in (directory, destination):
        if why := _unfit(path):
            raise SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, f"the project's path {why}")
    if directory == Path("/"):
        raise SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, "the project would be the whole host")
    if _overlap(directory, settings.state_dir):
        raise SupervisorError(
            ErrorCode.PROJECT_PATH_REFUSED,
            f"the supervisor's state ({settings.state_dir}) must be apart from projects",
        )
    if why := _covers(destination):
        raise SupervisorError(
            ErrorCode.PROJECT_PATH_REFUSED,
            f"the project cannot be mounted at {destination}: {why}",
            hint="Set mount_point.",
        )


def _check_state(settings: ContainerSettings, launch: Launch) -> None:
    """Podman follows symlinks in what it mounts: an agent that can write above it chooses it."""
    shared = [launch.directory, *(m.source for m in settings.extra_mounts if m.writable)]
    ours = [settings.state_dir, settings.codex_folder, settings.init]
    ours += [path for path in (settings.requirements, settings.config) if path is not None]
    ours += [launch.stdin, launch.stdout, launch.stderr]
    _check_apart([settings.codex_home], shared)
    _check_apart(ours, [*shared, settings.codex_home])


def _check_apart(ours: Sequence[Path], writable: Sequence[Path]) -> None:
    for path in ours:
        if why := _unfit(path):
            raise _unsafe(f"{path} {why}")
        for place in writable:
            if path.is_relative_to(place):
                raise _unsafe(f"{path} is where the agent can write ({place})")


def _check_extra(
    mount: ExtraMount, settings: ContainerSettings, directory: Path, taken: Sequence[Path]
) -> None:
    for path in (mount.source, mount.destination):
        if why := _unfit(path):
            raise _invalid(f"the mount of {mount.source} {why}")
    if mount.source == Path("/") or any(
        _overlap(mount.source, kept) for kept in (settings.state_dir, settings.codex_home)
    ):
        raise _invalid(f"{mount.source} holds the supervisor's state, or is in it")
    if mount.source.is_relative_to(directory):
        raise _invalid(f"{mount.source} is in the project, where the agent can make it a symlink")
    if directory.is_relative_to(mount.source) and mount.writable:
        raise _invalid(f"{mount.source} holds the project: the agent could replace it")
    for other in settings.extra_mounts:
        if other.writable and other.source in mount.source.parents:
            raise _invalid(f"{mount.source} is in {other.source}, where the agent can write")
    if why := _covers(mount.destination):
        raise _invalid(f"nothing can be mounted at {mount.destination}: {why}")
    for place in taken:
        if _overlap(mount.destination, place):
            raise _invalid(f"two mounts overlap: {mount.destination} and {place}")


def _unfit(path: Path) -> str:
    if not path.is_absolute() or ".." in path.parts:
        return "must be absolute and plain"
    # Of a path's text: a mount is one line, and messages are shown on terminals.
    return "" if str(path).isprintable() else "has characters that cannot be shown"


def _covers(destination: Path) -> str:
    for kept in _KEPT:
        if kept.is_relative_to(destination):
            return f"it would cover {kept}"
    for closed in _CLOSED:
        if destination.is_relative_to(closed):
            return f"{closed} is not to be changed"
    return ""


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _invalid(message: str, hint: str | None = None) -> SupervisorError:
    return SupervisorError(ErrorCode.SETTINGS_INVALID, message, hint=hint)


def _unsafe(message: str) -> SupervisorError:
    return SupervisorError(
        ErrorCode.STATE_DIRECTORY_UNSAFE,
        message,
        hint="Keep the supervisor's state where only root can write.",
    )
