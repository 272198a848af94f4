"""Round trips, one at a time, of several ways that take turns: what disturbs one disturbs all."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from statistics import median

BLOCK = 100
"""Requests of one way before it is the next one's turn."""
WARM_UP = 30

Ask = Callable[[], Awaitable[object]]
Timed = Callable[[], Awaitable[float]]
"""Asks once, and says how many seconds that took; what it does besides is not counted."""


def timed(ask: Ask, pause: float = 0) -> Timed:
    """For what is all to be counted; `pause` seconds before it are not."""

    async def once() -> float:
        if pause:
            await asyncio.sleep(pause)
        began = time.perf_counter()
        await ask()
        return time.perf_counter() - began

    return once


async def round_trips(ways: Mapping[str, Timed], count: int) -> dict[str, list[float]]:
    """`count` latencies of each way, milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for ask in ways.values():
        for _ in range(min(WARM_UP, count)):
            await ask()
    while any(len(samples) < count for samples in taken.values()):
        for name, ask in ways.items():
            for _ in range(min(BLOCK, count - len(taken[name]))):
                taken[name].append(await ask() * 1000)
    return taken


def percentile(samples: list[float], share: float) -> float:
    """The smallest sample that `share` of them do not exceed."""
    return sorted(samples)[max(0, ceil(share * len(samples)) - 1)]


def p50(samples: list[float]) -> float:
    """The median."""
    return median(samples)


def p99(samples: list[float]) -> float:
    """The 99th percentile."""
    return percentile(samples, 0.99)
