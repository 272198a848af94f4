"""What becomes of an intent without outcome after adoption or a restart (D10). Pure decisions.

The caller has read the spool up to the answer of a ping sent after adoption: what the app-server
ever answered to the intent stands in front of it.
"""

from dataclasses import dataclass
from enum import StrEnum, unique

from supervisor.errors import ErrorCode

SEARCHABLE = frozenset({"turn/start", "turn/steer"})
"""They carry `clientUserMessageId`, which Codex keeps as the `clientId` of a userMessage item."""

REPEATABLE = frozenset({"thread/name/set", "thread/archive", "thread/resume"})
"""Done twice is done once."""


@unique
class Evidence(StrEnum):
    """What settles an intent."""

    ANSWERED = "answered"
    """The response stands in the spool: it is the outcome."""
    FOUND = "found"
    """The message stands in the thread: it arrived, and its turn's state is the outcome."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One intent without outcome, and what is known of it."""

    method: str
    answered_in_spool: bool
    same_generation: bool
    """The app-server it was meant for still runs."""
    found_in_thread: bool | None
    """Whether its id is among the thread's items; None: not searched yet."""


@dataclass(frozen=True, slots=True)
class Settle:
    """It happened; take the outcome from `outcome`."""

    outcome: Evidence


@dataclass(frozen=True, slots=True)
class Search:
    """Look for its id among the thread's items, then decide again."""


@dataclass(frozen=True, slots=True)
class SendAgain:
    """It provably never arrived, or harms nothing twice: write it again, with the same id."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Nobody can know, or nothing is left to do it to: tell the client."""

    code: ErrorCode


Decision = Settle | Search | SendAgain | Fail


def reconcile(doubt: Doubt) -> Decision:
    """The next step for one intent. Asked again after `Search`, it never says `Search` twice."""
    if doubt.answered_in_spool:
        return Settle(Evidence.ANSWERED)
    if doubt.method in SEARCHABLE:
        return _searchable(doubt)
    if doubt.method in REPEATABLE and doubt.same_generation:
        return SendAgain()
    # thread/start would make a second thread; an interrupt might hit a turn begun since; an
    # unknown method might do anything.
    return Fail(ErrorCode.AGENT_RESTARTED)


def _searchable(doubt: Doubt) -> Decision:
    if doubt.found_in_thread is None:
        return Search()
    if doubt.found_in_thread:
        return Settle(Evidence.FOUND)
    if doubt.same_generation:
        # Behind the ping, absent and unanswered: it never arrived whole. A steer names the turn it
        # expects, so that one sent late is refused and steers nothing else.
        return SendAgain()
    # A dead app-server may have sent it to the model before it stored it: never run it twice.
    return Fail(ErrorCode.AGENT_RESTARTED)
