"""What podman answers, as far as it is of interest. Pure; every field is podman's claim."""

from typing import Final, TypeVar

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.spec import MARKER_LABEL, container_name

T = TypeVar("T")

_STORAGE: Final = "storage"
"""State of one that podman had made room for and not yet noted: it has a name and no labels."""


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """One of the list."""

    id: str
    state: str
    names: list[str] | None = None
    pid: int = 0
    labels: dict[str, str] | None = None

    @property
    def marker(self) -> str:
        """The generation it belongs to; "" if it is not ours."""
        return (self.labels or {}).get(MARKER_LABEL, "")

    def belongs_to(self, marker: str) -> bool:
        """Whether a start of that generation made it, or half made it."""
        if self.state == _STORAGE:
            return container_name(marker) in (self.names or ())
        return self.marker == marker


class State(msgspec.Struct, frozen=True):
    """One container's, when it was asked for."""

    status: str = msgspec.field(name="Status")
    exit_code: int = msgspec.field(name="ExitCode", default=0)
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    """Never true before podman 5."""

    @property
    def ended(self) -> bool:
        """Whether `exit_code` counts."""
        return self.status in ("stopped", "exited", "removing")


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """Of `podman inspect`."""

    state: State


class Image(msgspec.Struct, frozen=True, rename="pascal"):
    """One that is there."""

    id: str
    architecture: str = ""
    os: str = ""


class _Actor(msgspec.Struct, frozen=True, rename="pascal"):
    attributes: dict[str, str] | None = None


class Event(msgspec.Struct, frozen=True):
    """One of podman's log of what happened."""

    what: str = msgspec.field(name="Action", default="")
    kind: str = msgspec.field(name="Type", default="")
    id: str = ""
    """Of the container, where it is about one."""
    at_ns: int = msgspec.field(name="timeNano", default=0)
    actor: _Actor = msgspec.field(name="Actor", default=_Actor())

    @property
    def attributes(self) -> dict[str, str]:
        """The container's labels, and what podman adds: `name`, `image`, `containerExitCode`."""
        return self.actor.attributes or {}

    @property
    def exit_code(self) -> int | None:
        """Of a container that died."""
        said = self.attributes.get("containerExitCode", "")
        return int(said) if self.what == "died" and said.isdigit() else None


class Complaint(msgspec.Struct, frozen=True):
    """Of the API, with a status of 400 or more."""

    message: str


class Removed(msgspec.Struct, frozen=True, rename="pascal"):
    """What became of one that was to be removed."""

    id: str = ""
    err: str | None = None


def decoded(said: str | bytes, kind: type[T]) -> T:
    """`agent_start_failed` if it is anything else."""
    try:
        return msgspec.json.decode(said, type=kind)
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"podman answered what is not understood: {error}"
        ) from error


def decoded_lines(said: bytes, kind: type[T]) -> list[T]:
    """One a line; raises as `decoded` does."""
    return [decoded(line, kind) for line in said.splitlines() if line.strip()]
