"""The agent's lifecycle: whether there is an app-server, and whether it answers (D9, D11).

`stopped`, `backing_off`, `quarantined` and `lost` have no process; the other three have one.
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType

from supervisor.lifecycle.table import step


@unique
class AgentState(StrEnum):
    """Observed; what is desired is kept beside it, never in it."""

    STOPPED = "stopped"
    """No process, and none wanted."""
    STARTING = "starting"
    """A process is there, or about to be, and has not answered yet."""
    READY = "ready"
    """`initialize` and a ping were answered."""
    DRAINING = "draining"
    """Asked to end; no new work."""
    BACKING_OFF = "backing_off"
    """It ended unasked; the next start waits for its time."""
    QUARANTINED = "quarantined"
    """Given up, with a reason, until a person or a config change releases it."""
    LOST = "lost"
    """A recorded process is gone and nobody saw it end."""


@unique
class AgentEvent(StrEnum):
    """What may happen to an agent."""

    START = "start"
    """Asked to run."""
    ADOPTED = "adopted"
    """A predecessor's process is there; it has yet to answer a ping."""
    ANSWERED = "answered"
    """`initialize` (not after adoption) and a ping were answered in time."""
    EXITED = "exited"
    """The process was seen to end, or could not be started at all."""
    VANISHED = "vanished"
    """The process recorded is not there, and nobody saw it end."""
    STOP = "stop"
    """Asked to stop."""
    RETRY = "retry"
    """The backoff is over."""
    GIVE_UP = "give_up"
    """The intensity is passed, or no restart mends the reason."""
    RELEASE = "release"
    """A person or a config change lifts the quarantine."""


_S = AgentState
_E = AgentEvent
TRANSITIONS: Mapping[tuple[AgentState, AgentEvent], AgentState] = MappingProxyType(
    {
        (_S.STOPPED, _E.START): _S.STARTING,
        (_S.STOPPED, _E.ADOPTED): _S.STARTING,
        # A successor begins in `stopped`, and may find the recorded process gone.
        (_S.STOPPED, _E.VANISHED): _S.LOST,
        # A predecessor's quarantine holds.
        (_S.STOPPED, _E.GIVE_UP): _S.QUARANTINED,
        (_S.STARTING, _E.ANSWERED): _S.READY,
        (_S.STARTING, _E.EXITED): _S.BACKING_OFF,
        (_S.STARTING, _E.VANISHED): _S.LOST,
        (_S.STARTING, _E.STOP): _S.DRAINING,
        (_S.READY, _E.EXITED): _S.BACKING_OFF,
        (_S.READY, _E.VANISHED): _S.LOST,
        (_S.READY, _E.STOP): _S.DRAINING,
        (_S.DRAINING, _E.EXITED): _S.STOPPED,
        (_S.DRAINING, _E.VANISHED): _S.STOPPED,
        (_S.BACKING_OFF, _E.RETRY): _S.STARTING,
        (_S.BACKING_OFF, _E.GIVE_UP): _S.QUARANTINED,
        (_S.BACKING_OFF, _E.STOP): _S.STOPPED,
        (_S.LOST, _E.RETRY): _S.STARTING,
        (_S.LOST, _E.GIVE_UP): _S.QUARANTINED,
        (_S.LOST, _E.STOP): _S.STOPPED,
        # To `stopped`, not `starting`: what is desired decides whether a START follows, so that
        # there is one way out of rest.
        (_S.QUARANTINED, _E.RELEASE): _S.STOPPED,
        (_S.QUARANTINED, _E.STOP): _S.STOPPED,
    }
)

INITIAL = AgentState.STOPPED
WITH_PROCESS = frozenset({AgentState.STARTING, AgentState.READY, AgentState.DRAINING})
AT_REST = frozenset({AgentState.STOPPED, AgentState.QUARANTINED})
"""No process, and none about to be."""


def next_state(state: AgentState, event: AgentEvent) -> AgentState:
    """The state after `event`; raises `IllegalTransition`."""
    return step(TRANSITIONS, state, event)
