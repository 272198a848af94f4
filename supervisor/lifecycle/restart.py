"""Why an app-server ended, and what follows: a restart after a delay, or quarantine (D10).

Both are pure functions: of the facts of one exit, and of the exits so far. What the real binary
(0.163.0) says was observed: a broken `config.toml` does *not* end it (it goes on with defaults and
refuses `thread/start`); a bad `-c` override or CODEX_HOME ends it with exit code 1 and `Error: …`
followed by `Stack backtrace:`; an argument it does not know with exit code 2. Missing or wrong
credentials end nothing. End of stdin, SIGTERM and a line that is not UTF-8: exit code 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from signal import SIGKILL
from typing import Protocol


@unique
class ExitKind(StrEnum):
    """Stored in `generations.exit_kind`; the policy hangs on it."""

    ASKED = "asked"
    CRASHED = "crashed"
    KILLED = "killed"
    """SIGKILL, and not by us."""
    START_FAILED = "start_failed"
    START_TIMEOUT = "start_timeout"
    UNRESPONSIVE = "unresponsive"
    """It had been ready, stopped answering, and was ended for it."""
    BAD_CONFIG = "bad_config"
    AUTH = "auth"
    QUOTA = "quota"
    CODEX_MISSING = "codex_missing"
    CODEX_VERSION = "codex_version"
    DISK_FULL = "disk_full"
    """It was over its disk bound for too long, and was ended for it."""
    OOM = "oom"
    VANISHED = "vanished"
    """Nobody saw how it ended."""


PERMANENT = frozenset(
    {
        ExitKind.BAD_CONFIG,
        ExitKind.AUTH,
        ExitKind.QUOTA,
        ExitKind.CODEX_MISSING,
        ExitKind.CODEX_VERSION,
        ExitKind.DISK_FULL,
    }
)
"""No restart mends these."""

_NEVER_READY = frozenset({ExitKind.START_FAILED, ExitKind.START_TIMEOUT})

_BAD_CONFIG = re.compile(
    r"^Error: (?:"
    r"Model provider `[^`]*` not found"
    r"|invalid (?:type|value|length)\b"
    r"|(?:unknown|missing|duplicate) (?:variant|field)\b"
    r"|failed to (?:load|parse|read) config"
    r"|CODEX_HOME points to "
    r"|.*\n+in `)",
    re.MULTILINE,
)
_BAD_ARGUMENT = re.compile(
    r"^error: (?:unexpected argument|unrecognized subcommand|invalid value)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class ExitFacts:
    """What is known of one exit. `code` and `signal` both None: nobody saw it."""

    code: int | None
    signal: int | None
    asked: bool
    """We had asked it to end."""
    ready: bool
    """It had been ready."""
    timed_out: bool
    """We ended it because it did not answer in time."""
    stderr_tail: str
    """Only ever read for an app-server that was never ready: later, the model's words are in it."""
    oom: bool = False
    """The kernel says that memory ran out."""
    known: ExitKind | None = None
    """What the caller knows and no exit code tells: `codex_missing` where there was nothing to
    start, `codex_version` from the handshake, `auth` and `quota` from the protocol."""


def classify(facts: ExitFacts) -> ExitKind:
    """The one kind of this exit."""
    if facts.known is not None:
        return facts.known
    if facts.asked:
        return ExitKind.ASKED
    if facts.timed_out:
        return ExitKind.UNRESPONSIVE if facts.ready else ExitKind.START_TIMEOUT
    if facts.oom:
        return ExitKind.OOM
    if facts.code is None and facts.signal is None:
        return ExitKind.VANISHED
    if facts.signal == SIGKILL:
        return ExitKind.KILLED
    if facts.ready:
        return ExitKind.CRASHED
    return _failed_start(facts)


def _failed_start(facts: ExitFacts) -> ExitKind:
    if facts.code == 2 and _BAD_ARGUMENT.search(facts.stderr_tail):
        # The arguments are ours and right for the pinned version.
        return ExitKind.CODEX_VERSION
    if facts.code == 1 and _BAD_CONFIG.search(facts.stderr_tail):
        return ExitKind.BAD_CONFIG
    return ExitKind.START_FAILED


class Uniform(Protocol):
    """The part of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float) -> float:
        """A number in [a, b]."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds and counts. More than `intensity` unasked exits within `period` is too many."""

    base_seconds: float = 0.2
    cap_seconds: float = 30.0
    intensity: int = 5
    period_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class PastExit:
    """One exit, by the monotonic clock of the supervisor that handled it."""

    at_monotonic: float
    kind: ExitKind


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again after `delay_seconds`."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Start no more; `reason` is for people, `kind` for programs."""

    kind: ExitKind
    reason: str


_REASONS = {
    ExitKind.BAD_CONFIG: "its configuration is refused",
    ExitKind.AUTH: "codex has no valid login",
    ExitKind.QUOTA: "the account's quota is used up",
    ExitKind.CODEX_MISSING: "the codex binary is missing",
    ExitKind.CODEX_VERSION: "the codex binary is of another version",
    ExitKind.DISK_FULL: "disk full",
}


def remember(
    history: Sequence[PastExit], exit_: PastExit, policy: RestartPolicy
) -> tuple[PastExit, ...]:
    """The history with one more exit, cut to what `decide` can need."""
    return (*history, exit_)[-(policy.intensity + 1) :]


def decide(
    history: Sequence[PastExit], now: float, rng: Uniform, policy: RestartPolicy
) -> Restart | Quarantine:
    """What follows the last exit of `history`, oldest first. Full jitter: [0, base * 2**(n-1)].

    Clearing the history is how a quarantine is released.
    """
    if not history or history[-1].kind is ExitKind.ASKED:
        return Restart(0.0)
    last = history[-1].kind
    if last in PERMANENT:
        return Quarantine(last, _REASONS[last])
    count = _counted(history, now - policy.period_seconds)
    if count > policy.intensity:
        return Quarantine(
            last, f"it ended {count} times within {policy.period_seconds:g} s, last: {last.value}"
        )
    # The exponent is bounded by the intensity, yet a configured one may be large: no overflow.
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2.0 ** min(max(count - 1, 0), 64))
    return Restart(rng.uniform(0.0, ceiling))


def _counted(history: Sequence[PastExit], since: float) -> int:
    """Unasked exits since then, and the last starts in a row that never answered, however old.

    The second half is there because five start timeouts do not fit into one period: by rate alone
    an agent that never answers would be started for ever.
    """
    count = 0
    in_a_row = True
    for past in reversed(history):
        in_a_row = in_a_row and past.kind in _NEVER_READY
        if past.kind is not ExitKind.ASKED and (in_a_row or past.at_monotonic >= since):
            count += 1
    return count
