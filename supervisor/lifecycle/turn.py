"""A turn's lifecycle, from the intent to its one end. Every turn ends (DESIGN.md section 6)."""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType

from supervisor.lifecycle.table import step, terminal_states


@unique
class TurnState(StrEnum):
    """`completed`, `interrupted` and `failed` are Codex's own words."""

    SUBMITTED = "submitted"
    """Its intent is committed; Codex has not said that it began."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    UNSENT = "unsent"
    """Its intent provably never reached the app-server: nothing happened."""


@unique
class TurnEvent(StrEnum):
    """What may happen to a turn."""

    STARTED = "started"
    """The response with its id, `turn/started`, or a find among the thread's items."""
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    """Codex ended it as failed."""
    REFUSED = "refused"
    """The app-server answered `turn/start` with an error."""
    NEVER_ARRIVED = "never_arrived"
    AGENT_ENDED = "agent_ended"
    """The app-server ended first; Codex says nothing of it, so the end is ours to tell."""


_S = TurnState
_E = TurnEvent
TRANSITIONS: Mapping[tuple[TurnState, TurnEvent], TurnState] = MappingProxyType(
    {
        (_S.SUBMITTED, _E.STARTED): _S.IN_PROGRESS,
        (_S.SUBMITTED, _E.REFUSED): _S.FAILED,
        (_S.SUBMITTED, _E.NEVER_ARRIVED): _S.UNSENT,
        # It may have run, or not: nobody can know any more, and it is not sent again.
        (_S.SUBMITTED, _E.AGENT_ENDED): _S.FAILED,
        (_S.IN_PROGRESS, _E.COMPLETED): _S.COMPLETED,
        (_S.IN_PROGRESS, _E.INTERRUPTED): _S.INTERRUPTED,
        (_S.IN_PROGRESS, _E.FAILED): _S.FAILED,
        (_S.IN_PROGRESS, _E.AGENT_ENDED): _S.INTERRUPTED,
    }
)

INITIAL = TurnState.SUBMITTED
TERMINAL = terminal_states(TRANSITIONS, TurnState)


def next_state(state: TurnState, event: TurnEvent) -> TurnState:
    """The state after `event`; raises `IllegalTransition`."""
    return step(TRANSITIONS, state, event)
