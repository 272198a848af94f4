"""The groups of settings that containers need: podman, the proxy, the disk.

Each is a table of the configuration file. docs/settings.md explains every key.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB


def absolute(path: Path) -> Path:
    """`path` with ~ expanded; a `ValueError` if it is relative."""
    expanded = path.expanduser()
    if not expanded.is_absolute() or "\0" in str(expanded):
        raise ValueError("must be an absolute path, or begin with ~")
    return expanded


def _base_url(url: str) -> str:
    if re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?", url) is None:
        raise ValueError("must be an http or https URL without query, such as https://host/v1")
    return url.rstrip("/")


def _host_and_port(text: str) -> str:
    if re.fullmatch(r"(\*\.)?[A-Za-z0-9][A-Za-z0-9.-]{0,252}:[0-9]{1,5}", text) is None:
        raise ValueError("must read host:port or *.domain:port")
    if not 0 < int(text.rpartition(":")[2]) <= 65_535:
        raise ValueError("the port must be between 1 and 65535")
    return text.lower()


AbsolutePath = Annotated[Path, AfterValidator(absolute)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Memory = Annotated[int, Field(ge=32 * _MIB, le=1 << 50)]
Pids = Annotated[int, Field(ge=16, le=1_000_000)]
Cpus = Annotated[float, Field(ge=0.01, le=4096)]
Space = Annotated[int, Field(ge=_MIB, le=1 << 50)]
Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$")]
Uid = Annotated[int, Field(ge=1, le=(1 << 32) - 2)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]


class Group(BaseModel):
    """A table of the file; frozen, and every key known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LimitSettings(Group):
    """What one container may use; a project's own may be set in `podman.projects`."""

    memory_bytes: Memory = _GIB
    pids: Pids = 512
    cpus: Cpus = 1.5
    tmp_bytes: Space = 256 * _MIB
    shm_bytes: Space = 16 * _MIB


class MountSettings(Group):
    """One more bind mount of every container."""

    source: AbsolutePath
    destination: AbsolutePath
    writable: bool = False


class ProjectSettings(Group):
    """What one project has otherwise than the others."""

    image: Image | None = None
    mount_point: AbsolutePath | None = None
    memory_bytes: Memory | None = None
    pids: Pids | None = None
    cpus: Cpus | None = None
    tmp_bytes: Space | None = None
    shm_bytes: Space | None = None


class PodmanSettings(Group):
    """The containers of `runtime = "podman"`."""

    program: str = "podman"
    image: Image = "localhost/codex-supervisor-agent:slim"
    containers_conf: AbsolutePath | None = None
    init_bin: AbsolutePath | None = None
    uid: Uid | None = None
    gid: Uid | None = None
    limits: LimitSettings = LimitSettings()
    require_limits: bool = False
    inner_wall: Literal["require", "prefer", "off"] = "prefer"
    mount_point: AbsolutePath | None = None
    extra_mounts: tuple[MountSettings, ...] = ()
    relist_seconds: Seconds = 60.0
    patience_seconds: Seconds = 30.0
    projects: dict[str, ProjectSettings] = {}


class ProxySettings(Group):
    """How a container reaches the model, and whatever else it is let reach."""

    socket: AbsolutePath | None = None
    base_url: Annotated[str, AfterValidator(_base_url)] = "https://api.openai.com/v1"
    key_file: AbsolutePath | None = None
    credential: Name | None = None
    connect_allow: tuple[Annotated[str, AfterValidator(_host_and_port)], ...] = ()
    connect_timeout_seconds: Seconds = 30.0
    idle_timeout_seconds: Seconds = 600.0


class DiskSettings(Group):
    """How much a project, and what its agent keeps outside of it, may grow to."""

    mode: Literal["auto", "image", "watch"] = "auto"
    project_bytes: Space | None = None
    home_bytes: Space = 2 * _GIB
    check_seconds: Seconds = 30.0
    grace_seconds: Seconds = 60.0
