"""Keeps an agent within its disk bounds by looking: over one it is paused, then ended (see
lifecycle.disk).

It runs beside a ready app-server, and asks its owner to do what is to be done.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from supervisor.agents.condition import Condition
from supervisor.agents.pauses import PauseReason, Pauses
from supervisor.agents.shared import Shared
from supervisor.clock import Clock
from supervisor.ids import ProjectId
from supervisor.lifecycle.agent import AgentState
from supervisor.lifecycle.disk import DiskState, Standing, judge, next_look
from supervisor.logs import get_logger
from supervisor.ports.disk import Disk, DiskUse, WatchedTree
from supervisor.ports.runtime import Process

log = get_logger()
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class Guarded(Protocol):
    """The agent, as its guard sees it. The reasons are for people."""

    async def pause(self, reason: str) -> None:
        """It is over a bound. Called again with each look that says so."""

    async def unpause(self) -> None:
        """Space was freed."""

    async def stop(self, reason: str) -> None:
        """It was over for the whole grace. The last thing the guard asks for."""


class Held:
    """Implements `Guarded` for an app-server. `full` is told the reason before it is ended."""

    def __init__(self, pauses: Pauses, process: Process, full: Callable[[str], None]) -> None:
        self._pauses = pauses
        self._process = process
        self._full = full

    async def pause(self, reason: str) -> None:
        await self._pauses.hold(PauseReason.DISK, reason)

    async def unpause(self) -> None:
        await self._pauses.let_go(PauseReason.DISK)

    async def stop(self, reason: str) -> None:
        self._full(reason)
        await self._process.kill_tree()


class DiskGuard:
    """Of one generation. Without trees it has nothing to do."""

    def __init__(
        self,
        guarded: Guarded,
        disk: Disk,
        trees: Sequence[WatchedTree],
        clock: Clock,
        *,
        check_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._guarded = guarded
        self._disk = disk
        self._trees = trees
        self._clock = clock
        self._interval = check_seconds
        self._grace = grace_seconds
        self._standing = Standing(DiskState.WITHIN, clock.monotonic())
        self._missed = 0

    async def run(self) -> None:
        """Until the agent was told to stop: for ever, as a rule."""
        while self._trees and self._standing.state is not DiskState.STOPPED:
            await self._look()
            now = self._clock.monotonic()
            await self._clock.sleep(
                next_look(self._standing, now, interval=self._interval, grace=self._grace)
            )

    async def _look(self) -> None:
        began, before = self._clock.monotonic(), self._standing
        reason = await self._excess()
        self._standing = judge(
            before, exceeds=reason is not None, looked_at=began, grace=self._grace
        )
        if reason is None:
            if before.state is not DiskState.WITHIN:
                log.info("disk_freed")
                await self._guarded.unpause()
        elif self._standing.state is DiskState.STOPPED:
            await self._guarded.stop(reason)
        else:
            if before.state is DiskState.WITHIN:
                log.warning("disk_full", reason=reason, grace_seconds=self._grace)
            await self._guarded.pause(reason)

    async def _excess(self) -> str | None:
        """What is over its bound, in words."""
        missed = 0
        for tree in self._trees:
            use = await self._disk.measure(tree)
            missed += use.missed
            if use.verdict != "within":
                return excess(tree, use)
        if missed and not self._missed:
            log.warning("disk_not_all_seen", directories=missed)
        self._missed = missed
        return None


async def guard_disk(
    shared: Shared,
    disk: Disk,
    held: Guarded,
    condition: Condition,
    *,
    project: ProjectId,
    directory: Path,
) -> None:
    """Guard one generation, once it is ready: paused before, it could not answer the handshake."""
    while condition.state is AgentState.STARTING:
        await condition.changed()
    settings = shared.settings.disk
    guard = DiskGuard(
        held,
        disk,
        await disk.watched(project, directory),
        shared.clock,
        check_seconds=settings.check_seconds,
        grace_seconds=settings.grace_seconds,
    )
    await guard.run()


def excess(tree: WatchedTree, use: DiskUse) -> str:
    """Why an agent is paused and stopped, as people read it."""
    if use.verdict == "uncountable":
        return f"{tree.name} has more files than can be counted ({use.files:,} seen)"
    return f"{tree.name} uses at least {size(use.bytes)} of {size(tree.bound)}"


def size(count: int) -> str:
    """Bytes, as people read them."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"
