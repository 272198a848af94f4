"""A subscription: snapshot or replay first, then live, with no gap and no double.

Everything here runs in the event loop's one thread. The step that finds the log read to its end
also goes live, with no await in between: nothing can be published in that gap. A subscriber that
does not keep up loses its queue, not its place: it goes back to reading the log.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol

import msgspec

from supervisor.broker.entry import Entry, event_payload, expired_payload, lagging_payload
from supervisor.ids import Cursor, Epoch


class LogReader(Protocol):
    """Reads entries in order from where it stands."""

    n: int
    """The number it reads next."""

    def read(self) -> list[Entry]:
        """Some entries more; none at the log's end. Raises `cursor_expired` if they are gone."""

    def close(self) -> None:
        """Let go of what it holds open."""


class Source(Protocol):
    """The log of a project, as a subscription sees it."""

    epoch: Epoch

    @property
    def first_n(self) -> int:
        """The oldest number that can be replayed."""

    @property
    def next_n(self) -> int:
        """The number the next entry takes."""

    def reader(self, n: int) -> LogReader:
        """A reader standing at `n`, which is not below `first_n`."""

    def snapshot(self, thread_id: str | None) -> bytes:
        """The payload of a snapshot as of the last entry."""


class QueueLimits(msgspec.Struct, frozen=True):
    """Bounds of one subscriber's live queue."""

    events: int
    bytes: int


class Phase(StrEnum):
    """Where a subscription stands."""

    SNAPSHOT = "snapshot"
    REPLAY = "replay"
    LIVE = "live"
    OVERRUN = "overrun"
    CLOSED = "closed"


class Subscription:
    """One subscriber's stream. Owned by the fan-out, which offers entries; iterated by one task."""

    def __init__(
        self, source: Source, thread_id: str | None, after: Cursor | None, limits: QueueLimits
    ) -> None:
        self._source = source
        self._thread_id = thread_id
        self._limits = limits
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._wake = asyncio.Event()
        self._refused_after: str | None = None
        self._phase = Phase.SNAPSHOT
        self._next_n = source.next_n
        self._prev = source.next_n - 1
        self.lagged = 0
        self.expired = 0
        if after is not None:
            self._continue_after(after)

    def _continue_after(self, after: Cursor) -> None:
        source = self._source
        if after.epoch == source.epoch and source.first_n - 1 <= after.n < source.next_n:
            self._phase = Phase.REPLAY
            self._next_n = after.n + 1
            self._prev = after.n
        else:
            self._refused_after = str(after)

    @property
    def closed(self) -> bool:
        """Whether it has been let go of."""
        return self._phase is Phase.CLOSED

    def close(self) -> None:
        """Let go of it. Idempotent; the iteration ends."""
        self._phase = Phase.CLOSED
        self._queue.clear()
        self._wake.set()

    def offer(self, entry: Entry) -> None:
        """A new entry, from the fan-out. Never waits: a full queue is given up instead."""
        if self._phase is not Phase.LIVE or not self._wants(entry):
            return
        assert entry.message is not None
        self._queue.append(entry)
        self._queued_bytes += len(entry.message)
        if len(self._queue) > self._limits.events or self._queued_bytes > self._limits.bytes:
            self._overrun()
        if not self._wake.is_set():
            self._wake.set()

    def _wants(self, entry: Entry) -> bool:
        if entry.message is None:
            return False
        return self._thread_id is None or entry.thread_id in (None, self._thread_id)

    def _overrun(self) -> None:
        self._next_n = self._queue[0].n
        self._dropped = len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._phase = Phase.OVERRUN
        self.lagged += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._payloads()

    async def _payloads(self) -> AsyncIterator[bytes]:
        if self._refused_after is not None:
            yield self._expire(self._refused_after)
        while self._phase is not Phase.CLOSED:
            if self._phase is Phase.SNAPSHOT:
                yield self._go_live_with_snapshot()
            elif self._phase is Phase.OVERRUN:
                self._phase = Phase.REPLAY
                yield lagging_payload(Cursor(self._source.epoch, self._prev), self._dropped)
            elif self._phase is Phase.REPLAY:
                async for payload in self._replay():
                    yield payload
            else:
                while self._queue:
                    yield self._take()
                if self._phase is Phase.LIVE and not self._queue:
                    self._wake.clear()
                    await self._wake.wait()

    def _take(self) -> bytes:
        entry = self._queue.popleft()
        assert entry.message is not None
        self._queued_bytes -= len(entry.message)
        return self._render(entry)

    def _render(self, entry: Entry) -> bytes:
        payload = event_payload(self._source.epoch, entry, self._prev)
        self._prev = entry.n
        return payload

    def _go_live_with_snapshot(self) -> bytes:
        self._prev = self._source.next_n - 1
        self._phase = Phase.LIVE
        return self._source.snapshot(self._thread_id)

    async def _replay(self) -> AsyncIterator[bytes]:
        if self._next_n < self._source.first_n:
            yield self._expire(str(Cursor(self._source.epoch, self._prev)))
            return
        reader = self._source.reader(self._next_n)
        try:
            async for payload in self._read(reader):
                yield payload
        finally:
            reader.close()

    async def _read(self, reader: LogReader) -> AsyncIterator[bytes]:
        while self._phase is Phase.REPLAY:
            if reader.n < self._source.first_n:
                yield self._expire(str(Cursor(self._source.epoch, self._prev)))
                return
            entries = reader.read()
            if not entries and reader.n >= self._source.next_n:
                self._phase = Phase.LIVE
                return
            for entry in entries:
                if self._wants(entry):
                    yield self._render(entry)
            # A long replay of what this subscriber filters out must not hold the loop.
            await asyncio.sleep(0)

    def _expire(self, asked: str) -> bytes:
        self.expired += 1
        self._phase = Phase.SNAPSHOT
        return expired_payload(asked, Cursor(self._source.epoch, self._source.first_n))
