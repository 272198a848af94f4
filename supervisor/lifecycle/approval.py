"""The lifecycle of a server request that waits for somebody: an approval, a question, a tool.

At most one answer wins. `answered` is committed before it is written to the app-server, and is
written again after adoption until `serverRequest/resolved` is seen (D10).
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType

from supervisor.lifecycle.table import step, terminal_states


@unique
class ApprovalState(StrEnum):
    """Where one server request stands."""

    WAITING = "waiting"
    ANSWERED = "answered"
    """The one answer is committed; the app-server has not confirmed it."""
    RESOLVED = "resolved"
    """The app-server confirmed the answer."""
    ABANDONED = "abandoned"
    """Its turn or its app-server ended first, or the app-server settled it by itself."""
    REFUSED = "refused"
    """The supervisor answered with an error, from the line alone, and offered it to nobody.

    The error is written at once, before a checkpoint can pass the line, unless stdin is full.
    """


@unique
class ApprovalEvent(StrEnum):
    """What may happen to a server request."""

    ANSWER = "answer"
    """Somebody's answer is committed."""
    EXPIRE = "expire"
    """Its time is over: the supervisor's decline is committed, an answer like another."""
    REFUSE = "refuse"
    """Nobody can answer this one: an unknown method, or bad params."""
    RESOLVED = "resolved"
    """`serverRequest/resolved`."""
    TURN_ENDED = "turn_ended"
    AGENT_ENDED = "agent_ended"


_S = ApprovalState
_E = ApprovalEvent
TRANSITIONS: Mapping[tuple[ApprovalState, ApprovalEvent], ApprovalState] = MappingProxyType(
    {
        (_S.WAITING, _E.ANSWER): _S.ANSWERED,
        (_S.WAITING, _E.EXPIRE): _S.ANSWERED,
        (_S.WAITING, _E.REFUSE): _S.REFUSED,
        (_S.WAITING, _E.RESOLVED): _S.ABANDONED,
        (_S.WAITING, _E.TURN_ENDED): _S.ABANDONED,
        (_S.WAITING, _E.AGENT_ENDED): _S.ABANDONED,
        (_S.ANSWERED, _E.RESOLVED): _S.RESOLVED,
        # After an interrupt, `serverRequest/resolved` follows `turn/completed`; by then nothing
        # hangs on it, and it finds a settled row.
        (_S.ANSWERED, _E.TURN_ENDED): _S.ABANDONED,
        (_S.ANSWERED, _E.AGENT_ENDED): _S.ABANDONED,
    }
)

INITIAL = ApprovalState.WAITING
TERMINAL = terminal_states(TRANSITIONS, ApprovalState)
WINNING = frozenset({ApprovalEvent.ANSWER, ApprovalEvent.EXPIRE, ApprovalEvent.REFUSE})
"""The events that answer: at most one of them is ever legal for one server request."""


def next_state(state: ApprovalState, event: ApprovalEvent) -> ApprovalState:
    """The state after `event`; raises `IllegalTransition`."""
    return step(TRANSITIONS, state, event)
