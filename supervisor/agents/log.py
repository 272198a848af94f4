"""The event log of one project: its spools and its own events, by number.

The lines stay where they are, in the spools; memory holds only marks (every 64 KiB, and after every
own event) that say which number starts at which offset, and the supervisor's own events. Between
two marks there are lines of one generation and nothing else.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from supervisor.agents.spool import SpoolReader
from supervisor.broker.entry import Entry, entry_of, parse_line
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation
from supervisor.protocol.framing import LineFramer, Oversized

MARK_EVERY_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
LINES_AT_ONCE = 2000
"""Lines decoded in one step, see `agents.incarnation`."""


class Window(msgspec.Struct, frozen=True):
    """How much stays replayable: the younger and the smaller of the two bounds wins."""

    seconds: float
    bytes: int


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Line number `n` starts at `offset` of `generation`'s spool."""

    n: int
    generation: Generation
    offset: int
    total: int
    """Bytes of all spools before it, since the log was opened: measures the window."""
    at: float
    """Monotonic seconds."""


class OwnEvent(msgspec.Struct, frozen=True):
    """An event of the supervisor's own."""

    thread_id: str | None
    message: bytes


class EventLog:
    """Owned by one ledger; readers only look."""

    def __init__(
        self,
        spool_path: Callable[[Generation], Path],
        window: Window,
        line_limit: int,
        start: Mark,
    ) -> None:
        self.spool_path = spool_path
        self.line_limit = line_limit
        self._window = window
        self._marks = [start]
        self._mark_ns = [start.n]
        self._own: dict[int, OwnEvent] = {}
        self.next_n = start.n
        self.generation = start.generation
        self.offset = start.offset
        """Where the next line starts."""
        self._total = start.total

    @property
    def first_n(self) -> int:
        """The oldest number that can be replayed."""
        return self._marks[0].n

    @property
    def start(self) -> Mark:
        """Where the replay window starts."""
        return self._marks[0]

    def note_line(self, size: int, at: float) -> int:
        """Count one line of `size` bytes, newline included; returns its number."""
        last = self._marks[-1]
        if self.offset - last.offset >= MARK_EVERY_BYTES:
            self._mark(at)
        n = self.next_n
        self.next_n = n + 1
        self.offset += size
        self._total += size
        return n

    def note_own(self, event: OwnEvent, at: float) -> int:
        """Count one own event; returns its number."""
        n = self.next_n
        self._own[n] = event
        self.next_n = n + 1
        self._mark(at)
        return n

    def next_generation(self, generation: Generation, at: float) -> None:
        """The lines that follow are in that generation's spool, from its start."""
        self.generation = generation
        self.offset = 0
        self._mark(at)

    def _mark(self, at: float) -> None:
        mark = Mark(self.next_n, self.generation, self.offset, self._total, at)
        if self._marks[-1].n == mark.n:
            self._marks[-1] = mark
            return
        self._marks.append(mark)
        self._mark_ns.append(mark.n)

    def trim(self, now: float) -> bool:
        """Let go of what left the window; whether anything did."""
        keep = 0
        for i in range(1, len(self._marks)):
            mark = self._marks[i]
            young = now - mark.at <= self._window.seconds
            if young and self._total - self._marks[i - 1].total <= self._window.bytes:
                break
            keep = i
        if keep == 0:
            return False
        del self._marks[:keep]
        del self._mark_ns[:keep]
        for n in [n for n in self._own if n < self.first_n]:
            del self._own[n]
        return True

    def own(self, n: int) -> OwnEvent | None:
        """The own event of that number, if it is one."""
        return self._own.get(n)

    def mark_at_or_below(self, n: int) -> Mark:
        """The mark to read number `n` from. `cursor_expired` if it left the window."""
        i = bisect_right(self._mark_ns, n) - 1
        if i < 0:
            raise SupervisorError(ErrorCode.CURSOR_EXPIRED, f"event {n} left the replay window")
        return self._marks[i]

    def reader(self, n: int) -> "LogReader":
        """A reader that starts at number `n`."""
        return LogReader(self, n)


class LogReader:
    """Reads the log in order from `n`. Holds one spool open at a time."""

    def __init__(self, log: EventLog, n: int) -> None:
        self._log = log
        self.n = n
        self._spool: SpoolReader | None = None
        self._framer = LineFramer(log.line_limit)
        self._lines: Iterator[bytes | Oversized] = iter(())
        """What is left of the last chunk."""
        self._at = -1
        """The number of the next line the framer will give; -1: look the place up."""
        self._generation = Generation(-1)

    def read(self) -> list[Entry]:
        """Some entries, none at the end of the log. `cursor_expired` if they are gone."""
        log = self._log
        entries: list[Entry] = []
        while self.n < log.next_n and not entries:
            own = log.own(self.n)
            if own is not None:
                entries.append(Entry(self.n, own.thread_id, own.message))
                self.n += 1
                self._at = -1
            elif not self._read_lines(entries):
                break
        return entries

    def _read_lines(self, entries: list[Entry]) -> bool:
        if self._at < 0:
            self._seek()
        assert self._spool is not None
        lines = list(islice(self._lines, LINES_AT_ONCE))
        if not lines:
            chunk = self._spool.read(READ_BYTES)
            if not chunk:
                return False
            self._lines = iter(self._framer.feed(chunk))
            lines = list(islice(self._lines, LINES_AT_ONCE))
        log = self._log
        for line in lines:
            if self._at >= log.next_n or log.own(self._at) is not None:
                # Past the end of what is counted, or of this stretch of lines: look it up again.
                self._at = -1
                return True
            if self._at >= self.n:
                entries.append(entry_of(self._at, line, parse_line(line)))
                self.n = self._at + 1
            self._at += 1
        return True

    def _seek(self) -> None:
        mark = self._log.mark_at_or_below(self.n)
        if self._spool is not None:
            self._spool.close()
        try:
            self._spool = SpoolReader(self._log.spool_path(mark.generation), mark.offset)
        except FileNotFoundError:
            raise SupervisorError(
                ErrorCode.CURSOR_EXPIRED, f"the spool of event {self.n} is gone"
            ) from None
        self._framer = LineFramer(self._log.line_limit)
        self._lines = iter(())
        self._at = mark.n

    def close(self) -> None:
        """Let go of the file."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
