"""Codex's own sandbox inside a container: what is known of it, and what follows. Pure.

The container is the wall; this is the second one, between the commands of the model and what else
is in the container: CODEX_HOME, the listener of the model, the rest of the disk.
"""

from enum import StrEnum, unique
from typing import Literal

import msgspec

from supervisor.errors import ErrorCode, SupervisorError

Wish = Literal["require", "prefer", "off"]
"""The setting `podman.inner_wall`."""


@unique
class WallState(StrEnum):
    """What the probe found."""

    HOLDS = "holds"
    MISSING = "missing"
    """It cannot be set up, or a command wrote where it must not."""
    UNKNOWN = "unknown"
    """Codex did not say: the probe itself could not be run, or got no answer."""
    OFF = "off"
    """Not wanted, and so not probed."""


class InnerWall(msgspec.Struct, frozen=True, kw_only=True):
    """One generation's."""

    state: WallState
    reason: str = ""
    """Why it does not hold, for people; "" if it does."""


NOT_WANTED = InnerWall(state=WallState.OFF)


def check(wish: Wish, wall: InnerWall) -> None:
    """`inner_wall_missing` if it is required and not known to hold."""
    if wish == "require" and wall.state is not WallState.HOLDS:
        raise SupervisorError(
            ErrorCode.INNER_WALL_MISSING,
            f"Codex's own sandbox does not work in the container: {wall.reason or 'not probed'}",
        )


def goes_without(wish: Wish, wall: InnerWall) -> bool:
    """Whether the next generation is better started without it (`pinned`, `walled=False`).

    Codex does not run commands unwalled by itself: all of them fail, and each change of a file asks
    a person first.
    """
    return wish == "prefer" and wall.state is WallState.MISSING
