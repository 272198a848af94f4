"""Whether containers can be started here at all: asked by `doctor` and by the demonstration.

Blocks, for a second at most, and changes nothing that is there.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from supervisor.errors import SupervisorError
from supervisor.runtimes.containing import init_binary
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_environment import podman_environment
from supervisor.settings import Settings


@contextmanager
def podman_for(settings: Settings, environment: Mapping[str, str]) -> Iterator[Podman]:
    """podman, as the supervisor runs it. Raises `agent_start_failed`."""
    podman = settings.podman
    with tempfile.TemporaryDirectory(prefix="codex-supervisor-") as scratch:
        variables = podman_environment(settings, environment, Path(scratch))
        yield Podman(variables, program=podman.program, patience=podman.patience_seconds)


def why_no_containers(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """What is in the way, in words; None if a container of the settings' image can be started."""
    try:
        init_binary(settings.podman.init_bin)
        with podman_for(settings, environment) as podman:
            return None if has_image(podman, settings) else no_image(settings)
    except SupervisorError as error:
        return error.message


def has_image(podman: Podman, settings: Settings) -> bool:
    """Whether it is in podman's store."""
    try:
        podman.ask("image", "exists", settings.podman.image)
    except SupervisorError:
        return False
    return True


def no_image(settings: Settings) -> str:
    """In words."""
    return f"there is no image {settings.podman.image}"
