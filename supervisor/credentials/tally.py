"""What one container has asked for, and how much of it is under way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum, unique
from typing import Final

MAX_REQUESTS: Final = 64
"""Model requests of one container at a time. Codex makes one for each thread that has a turn."""
MAX_TUNNELS: Final = 64
"""Of one container at a time; a package manager opens a dozen or two."""


@unique
class Outcome(StrEnum):
    """How a request or a tunnel ended."""

    COMPLETED = "completed"
    """Passed on whole, whatever the upstream answered."""
    REFUSED = "refused"
    """Not passed on: no path, method, header or size of ours."""
    UNREACHABLE = "unreachable"
    """No answer from the upstream."""
    CUT = "cut"
    """The upstream ended in the middle of its answer."""
    GONE = "gone"
    """The container's end went away first."""
    TUNNEL = "tunnel"
    TUNNEL_REFUSED = "tunnel_refused"


class Tally:
    """Counts for one container."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.active_requests = 0
        self.active_tunnels = 0

    @property
    def active(self) -> int:
        """Requests and tunnels under way."""
        return self.active_requests + self.active_tunnels

    def count(self, outcome: Outcome) -> None:
        """One more has ended so."""
        self.requests[outcome.value] += 1

    @contextmanager
    def request(self) -> Iterator[None]:
        """A model request is under way."""
        self.active_requests += 1
        try:
            yield
        finally:
            self.active_requests -= 1

    @contextmanager
    def tunnel(self) -> Iterator[None]:
        """A tunnel is under way."""
        self.active_tunnels += 1
        try:
            yield
        finally:
            self.active_tunnels -= 1
