"""Why an app-server is paused: it runs while nobody holds it.

Several may want it paused, each for a reason of its own, and none lets it run while another holds.
"""

import asyncio
from enum import StrEnum, unique

from supervisor.ports.runtime import Process


@unique
class PauseReason(StrEnum):
    """Who may hold it."""

    SPOOL = "spool"
    """Too much of its output waits to be read."""
    DISK = "disk"
    """What it may fill is full."""


class Pauses:
    """Owned by one incarnation; true while anything holds its process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._words: dict[PauseReason, str] = {}
        self._order = asyncio.Lock()

    def __bool__(self) -> bool:
        return bool(self._words)

    @property
    def words(self) -> str | None:
        """Why it is paused, for people; None while it runs."""
        return "; ".join(self._words.values()) or None

    async def hold(self, reason: PauseReason, words: str) -> None:
        """Pause it, or keep it so. Again with other words: those count."""
        async with self._order:
            held = bool(self._words)
            self._words[reason] = words
            if not held:
                await self._process.pause()

    async def let_go(self, reason: PauseReason) -> None:
        """Let it run, unless another holds it. Harmless if this one did not."""
        async with self._order:
            if self._words.pop(reason, None) is not None and not self._words:
                await self._process.unpause()
