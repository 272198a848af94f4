"""All that podman gets of the supervisor's environment, with a containers.conf that works here.

What was probed is kept in the state directory: it holds as long as the machine has not been booted
again and podman is the same.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.runtimes.containers_conf import containers_conf, limits_here, probe, start_once
from supervisor.runtimes.processes import boot_id
from supervisor.settings import Settings

log = get_logger()
_HANDED_ON: Final = (
    *("PATH", "HOME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *(
        "CONTAINERS_CONF",
        "CONTAINERS_STORAGE_CONF",
        "CONTAINERS_REGISTRIES_CONF",
        "DBUS_SESSION_BUS_ADDRESS",
    ),
)
"""Nothing else: a credential in the supervisor's environment is not podman's business."""
_PROBED: Final = "probed.json"
_CONF: Final = "containers.conf"


class _Probed(msgspec.Struct, frozen=True):
    """What the probe was made of, and what came of it."""

    boot_id: str
    podman: tuple[str, int, int]
    """Path, modification time in ns, bytes."""
    text: str


def podman_environment(
    settings: Settings, environment: Mapping[str, str], directory: Path
) -> dict[str, str]:
    """The environment of every podman call. Blocks for a second the first time after a boot.

    What was found out is kept in `directory`, which is made if need be. `agent_start_failed` if
    podman is not installed, or cannot start a container here.
    """
    handed_on = {name: environment[name] for name in _HANDED_ON if name in environment}
    installed = _installed(settings, environment)
    if settings.podman.containers_conf is not None:
        return {**handed_on, "CONTAINERS_CONF": str(settings.podman.containers_conf)}
    if "CONTAINERS_CONF" in handed_on:
        return handed_on
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _probed(directory / _PROBED, installed)
    if not text:
        return handed_on
    conf = directory / _CONF
    _written(conf, text.encode())
    return {**handed_on, "CONTAINERS_CONF": str(conf)}


def podman_environment_anyway(
    settings: Settings, environment: Mapping[str, str], directory: Path
) -> dict[str, str]:
    """The same where containers may run already: if podman cannot be used now, as it was right the
    last time. What runs goes on then, and what cannot be started says why."""
    try:
        return podman_environment(settings, environment, directory)
    except SupervisorError as error:
        log.warning("podman_unusable", error=error.message)
        return _as_kept(settings, environment, directory)


def _as_kept(settings: Settings, environment: Mapping[str, str], directory: Path) -> dict[str, str]:
    found = {name: environment[name] for name in _HANDED_ON if name in environment}
    conf = settings.podman.containers_conf
    if conf is None and "CONTAINERS_CONF" not in found:
        known = _kept(directory / _PROBED)
        conf = directory / _CONF if known is not None and known.text else None
    return found if conf is None else {**found, "CONTAINERS_CONF": str(conf)}


def _kept(path: Path) -> _Probed | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Probed)
    except (OSError, msgspec.MsgspecError):
        return None


def _installed(settings: Settings, environment: Mapping[str, str]) -> tuple[str, int, int]:
    program = settings.podman.program
    found = shutil.which(program, path=environment.get("PATH"))
    if found is None:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            f"there is no {program} to run",
            hint="Install podman, or set runtime to host.",
            retryable=False,
        )
    status = Path(found).stat()
    return found, status.st_mtime_ns, status.st_size


def _probed(kept: Path, podman: tuple[str, int, int]) -> str:
    boot = boot_id()
    known = _kept(kept)
    if known is not None and known.boot_id == boot and known.podman == podman:
        return known.text
    text = containers_conf(probe(lambda conf: start_once(conf, podman=podman[0]), limits_here()))
    _written(kept, msgspec.json.encode(_Probed(boot, podman, text)))
    return text


def _written(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)
