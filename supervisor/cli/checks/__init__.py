"""What `doctor` looks at: functions of the settings, each of which finds one thing, in words.

A check changes nothing that is there, and says what a person can do where something is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.settings import Settings


@unique
class Verdict(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """It works, though not as it could, or as one may expect."""
    FAIL = "fail"
    """The supervisor does not start, or cannot do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    verdict: Verdict
    says: str
    hint: str | None = None


Check = Callable[["Settings"], Finding]


def ok(says: str) -> Finding:
    """As it should be."""
    return Finding(Verdict.OK, says)


def warn(says: str, hint: str) -> Finding:
    """Worth knowing."""
    return Finding(Verdict.WARN, says, hint)


def fail(says: str, hint: str) -> Finding:
    """In the way."""
    return Finding(Verdict.FAIL, says, hint)
