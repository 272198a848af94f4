"""What a container was started with, kept with its files: at its adoption the settings may be
others, and podman need not answer then.
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from supervisor.policy.pinned import config_toml, requirements_toml
from supervisor.ports.runtime import Launch
from supervisor.runtimes.podman_command import Sort
from supervisor.runtimes.spec import ContainerSettings, Limits, project_mount
from supervisor.settings import Settings

_FILE: Final = "kept.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Of one container."""

    limits: Limits
    """As they were asked for."""
    rootless: bool
    cgroups: str
    """`v1` or `v2`, as podman said."""
    inside: str
    """Where the project is."""
    walled: bool
    pinned: str
    """The hash of the pinned configuration."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What is otherwise by now, in words."""

    outdated: str = ""
    """Why the container has to be started anew; "" if it may go on."""
    doubts: tuple[str, ...] = ()
    """What is worth knowing of one that goes on."""


def kept_of(settings: ContainerSettings, launch: Launch, sort: Sort) -> Kept:
    """To be kept of a container that is about to start. Reads the pinned files; OSError."""
    pinned = (settings.requirements, settings.config)
    return Kept(
        limits=settings.limits,
        rootless=sort.rootless,
        cgroups=sort.cgroups,
        inside=str(project_mount(settings, launch.directory)),
        walled=launch.walled,
        pinned=_hash(*("" if path is None else path.read_text() for path in pinned)),
    )


def keep(files: Path, kept: Kept) -> None:
    """Write it into `files`, the container's own directory. OSError."""
    (files / _FILE).write_bytes(msgspec.json.encode(kept))


def read_kept(files: Path) -> Kept | None:
    """None if it is not there, or not understood."""
    try:
        return msgspec.json.decode((files / _FILE).read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return None


def changed(kept: Kept, settings: Settings, inside: Path) -> Changed:
    """What the settings say otherwise than it was started with; `inside` is where the project is to
    be. Pure."""
    if kept.inside != str(inside):
        why = f"the project is at {kept.inside} in it, and is to be at {inside}"
        return Changed(outdated=why)
    required = settings.podman.inner_wall == "require"
    walled = kept.walled or required
    today = _hash(
        requirements_toml(settings, walled=walled),
        config_toml(settings, walled=walled),
    )
    if kept.pinned == today:
        return Changed()
    if required:
        return Changed(outdated="Codex is pinned to other settings in it, and is to be walled in")
    return Changed(
        doubts=("Codex is pinned to other settings, of the time of its start, until a restart",)
    )


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
