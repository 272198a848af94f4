"""Time and chance as arguments: nothing else may read a clock or draw a number."""

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What logic may know of time."""

    def now(self) -> datetime:
        """The wall clock, UTC, aware. For records, never for measuring."""

    def monotonic(self) -> float:
        """Seconds that never go back. For deadlines and durations."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def system_random() -> random.Random:
    """The source of chance for jitter and run names; tests pass a seeded one instead."""
    return random.SystemRandom()
