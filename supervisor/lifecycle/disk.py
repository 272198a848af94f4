"""What a tree that is watched does to its agent: over its bound it is paused, then stopped.

Pure. One standing per generation: the next one begins within.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType

from supervisor.lifecycle.table import step


@unique
class DiskState(StrEnum):
    """How the agent stands with its disk bounds."""

    WITHIN = "within"
    """It runs, as far as the disk is concerned."""
    OVER = "over"
    """It is paused: only people can free space now."""
    STOPPED = "stopped"
    """It was over for the whole grace, and is ended."""


@unique
class DiskEvent(StrEnum):
    """What a look at the trees may say."""

    FITS = "fits"
    EXCEEDS = "exceeds"
    GRACE_ENDED = "grace_ended"
    """It exceeds, and a look that began when the grace was over says so."""


_S = DiskState
_E = DiskEvent
TRANSITIONS: Mapping[tuple[DiskState, DiskEvent], DiskState] = MappingProxyType(
    {
        (_S.WITHIN, _E.FITS): _S.WITHIN,
        (_S.WITHIN, _E.EXCEEDS): _S.OVER,
        (_S.OVER, _E.FITS): _S.WITHIN,
        (_S.OVER, _E.EXCEEDS): _S.OVER,
        (_S.OVER, _E.GRACE_ENDED): _S.STOPPED,
    }
)

INITIAL = DiskState.WITHIN
TERMINAL = frozenset({DiskState.STOPPED})


@dataclass(frozen=True, slots=True)
class Standing:
    """A state and since when; monotonic seconds."""

    state: DiskState
    since: float


def judge(standing: Standing, *, exceeds: bool, looked_at: float, grace: float) -> Standing:
    """The standing after one look that began at `looked_at`. `grace` in seconds."""
    event = DiskEvent.FITS
    if exceeds:
        ended = standing.state is DiskState.OVER and looked_at - standing.since >= grace
        event = DiskEvent.GRACE_ENDED if ended else DiskEvent.EXCEEDS
    state = step(TRANSITIONS, standing.state, event)
    return standing if state is standing.state else Standing(state, looked_at)


def next_look(standing: Standing, now: float, *, interval: float, grace: float) -> float:
    """Seconds until the next one: at the end of the grace, if that is sooner."""
    if standing.state is not DiskState.OVER:
        return interval
    return min(interval, max(0.0, standing.since + grace - now))
