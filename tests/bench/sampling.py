"""Round trips, one at a time, of several ways that take turns: what disturbs one disturbs all."""

import time
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from statistics import median

BLOCK = 250
"""Requests of one way before it is the next one's turn."""
WARM_UP = 50

Ask = Callable[[], Awaitable[object]]


async def round_trips(ways: Mapping[str, Ask], count: int) -> dict[str, list[float]]:
    """`count` latencies of each way, milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for ask in ways.values():
        for _ in range(min(WARM_UP, count)):
            await ask()
    while any(len(samples) < count for samples in taken.values()):
        for name, ask in ways.items():
            for _ in range(min(BLOCK, count - len(taken[name]))):
                began = time.perf_counter()
                await ask()
                taken[name].append((time.perf_counter() - began) * 1000)
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
