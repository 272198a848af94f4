"""One generation of an agent: an app-server, its spool read into the ledger, its stdin.

Reading is a step without awaits (`_pump`), taken straight from the watcher's callback when nobody
holds the ledger's order, else by `run`: a response is on its way back after one inotify wake-up.
"""

import asyncio
from collections.abc import Callable

import msgspec

from supervisor.agents.effects import Answer, Effect
from supervisor.agents.ledger import Ledger
from supervisor.agents.pauses import PauseReason, Pauses
from supervisor.agents.spool import READ_BYTES, SpoolPaths, SpoolReader, bound_stderr
from supervisor.agents.upstream import Upstream
from supervisor.agents.watch import Watcher
from supervisor.clock import Clock
from supervisor.metrics import Metrics
from supervisor.ports.runtime import Exit, Process
from supervisor.protocol.framing import LineFramer, Oversized

BACKLOG_CHECK_SECONDS = 1.0
LINES_AT_ONCE = 2000
"""Lines taken in one step. A chunk of ordinary lines is fewer; one of empty lines is a quarter of a
million, and others' turns must not wait for them."""
SPOOL_FULL = "its spool has grown past the bound"


class Bounds(msgspec.Struct, frozen=True):
    """Bounds of one app-server's files, in bytes."""

    line: int
    backlog_pause: int
    backlog_stop: int
    stderr: int


class Incarnation:
    """Owned by one agent for as long as its process lives, and until its spool is read out."""

    def __init__(
        self,
        process: Process,
        paths: SpoolPaths,
        ledger: Ledger,
        upstream: Upstream,
        watcher: Watcher,
        *,
        bounds: Bounds,
        clock: Clock,
        metrics: Metrics,
        on_effect: Callable[[Effect], None],
    ) -> None:
        self.process = process
        self.paths = paths
        self.upstream = upstream
        self.pauses = Pauses(process)
        self.overrun = False
        """The backlog passed its last bound, and the app-server was ended for it."""
        self._ledger = ledger
        self._bounds = bounds
        self._clock = clock
        self._metrics = metrics
        self._on_effect = on_effect
        self._reader = SpoolReader(paths.stdout, ledger.log.offset)
        self._framer = LineFramer(bounds.line)
        self._lines: list[bytes | Oversized] = []
        """Of the last chunk; from `_next` on not taken in yet."""
        self._next = 0
        self._wake = asyncio.Event()
        self._wake.set()
        self._watch = watcher.watch(paths.stdout, self._on_change)
        self._closed = False

    @property
    def paused(self) -> bool:
        """Whether anything holds the app-server."""
        return bool(self.pauses)

    @property
    def backlog(self) -> int:
        """Bytes in the spool that are not read."""
        return 0 if self._closed else max(0, self._reader.size() - self._reader.offset)

    def _on_change(self) -> None:
        if self._closed:
            return
        if self._ledger.order.locked() or not self._ledger.accepting or self._pump():
            self._wake.set()

    def _pump(self) -> bool:
        """Take some lines into the ledger; whether there may be more. Never waits.

        A read that found the end is the last one: whatever is written after it wakes us again.
        """
        fresh = self._next >= len(self._lines)
        if fresh:
            chunk = self._reader.read(READ_BYTES)
            self._lines, self._next = self._framer.feed(chunk), 0
            if not chunk:
                return False
        lines = self._lines[self._next : self._next + LINES_AT_ONCE]
        self._next += LINES_AT_ONCE
        for effect in self._ledger.ingest(lines):
            self._take_effect(effect)
        return self._next < len(self._lines) or not (fresh and self._reader.at_end)

    def _take_effect(self, effect: Effect) -> None:
        if isinstance(effect, Answer) and self.upstream.resolve(effect):
            return
        self._on_effect(effect)

    async def catch_up(self) -> None:
        """Read what the spool holds by now."""
        end = self._reader.size()
        while self._ledger.log.offset + self._framer.pending < end and await self._step():
            pass

    async def _step(self) -> bool:
        """Read one chunk, once the store has room for what it brings; whether there may be more."""
        while not self._ledger.accepting:
            await self._clock.sleep(0.05)
        async with self._ledger.order:
            more = not self._closed and self._pump()
        await asyncio.sleep(0)
        return more

    async def run(self) -> None:
        """Read whatever the callback could not, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._step():
                pass

    async def watch_bounds(self) -> None:
        """Keep the spool's backlog and stderr within their bounds, for ever."""
        while True:
            await self._clock.sleep(BACKLOG_CHECK_SECONDS)
            if self._closed:
                continue
            backlog = self.backlog
            if backlog > self._bounds.backlog_stop:
                self.overrun = True
                await self.process.kill_tree()
            elif backlog > self._bounds.backlog_pause:
                await self.pauses.hold(PauseReason.SPOOL, SPOOL_FULL)
            elif backlog < self._bounds.backlog_pause // 2:
                await self.pauses.let_go(PauseReason.SPOOL)
            bound_stderr(self.paths.stderr, self._bounds.stderr)

    async def finish(self) -> tuple[Exit, int]:
        """After the app-server's exit: end its tree, read the spool out; the exit, the size."""
        exit_ = await self.process.wait()
        await self.process.kill_tree()
        while await self._step():
            pass
        return exit_, self._reader.offset

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        if not self._closed:
            self._closed = True
            self._watch.close()
            self._reader.close()
            self.upstream.close()
