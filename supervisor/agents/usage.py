"""What all contained agents use together, from one reading of each: sums that never go back.

Pure but for `show`. A generation's counters begin at zero and are gone with its container, so what
counts is how much each has grown since it was last looked at.
"""

from collections.abc import Mapping

import msgspec

from supervisor.metrics import Metrics
from supervisor.ports.runtime import Usage


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """Counters: how much they have grown since the reading before."""

    cpu_seconds: float = 0.0
    throttled_seconds: float = 0.0
    oom_kills: int = 0


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """All agents that could be read, at one time."""

    agents: int
    memory_bytes: int
    memory_ratio_max: float
    """Of those with a limit; 0 without any."""
    pids: int
    without_memory_limit: int
    without_pids_limit: int
    grown: Grown


class UsageTotals:
    """Remembers the last reading of each live generation, and nothing of those that have ended."""

    def __init__(self) -> None:
        self._last: dict[str, Usage] = {}

    def know(self, marker: str, usage: Usage) -> None:
        """One that was adopted: what it used before was counted by the supervisor before."""
        self._last.setdefault(marker, usage)

    def take(self, live: Mapping[str, Usage]) -> Together:
        """One reading of every live generation, by its marker. What is missing has ended: what it
        used after its last reading is nobody's."""
        growth = [_growth(self._last.get(marker), usage) for marker, usage in live.items()]
        self._last = dict(live)
        usages = list(live.values())
        return Together(
            agents=len(usages),
            memory_bytes=sum(u.memory_bytes for u in usages),
            memory_ratio_max=max(map(_memory_ratio, usages), default=0.0),
            pids=sum(u.pids for u in usages),
            without_memory_limit=sum(u.memory_limit_bytes is None for u in usages),
            without_pids_limit=sum(u.pids_limit is None for u in usages),
            grown=Grown(
                cpu_seconds=sum(g.cpu_seconds for g in growth),
                throttled_seconds=sum(g.throttled_seconds for g in growth),
                oom_kills=sum(g.oom_kills for g in growth),
            ),
        )


def _growth(before: Usage | None, now: Usage) -> Grown:
    if before is None:
        return Grown(
            cpu_seconds=now.cpu_seconds,
            throttled_seconds=now.throttled_seconds,
            oom_kills=now.oom_kills,
        )
    # A counter is never given less: some kernels round a reading down after the one before.
    return Grown(
        cpu_seconds=max(0.0, now.cpu_seconds - before.cpu_seconds),
        throttled_seconds=max(0.0, now.throttled_seconds - before.throttled_seconds),
        oom_kills=max(0, now.oom_kills - before.oom_kills),
    )


def _memory_ratio(usage: Usage) -> float:
    limit = usage.memory_limit_bytes
    return usage.memory_bytes / limit if limit else 0.0


def show(together: Together, metrics: Metrics) -> None:
    """Set the gauges, and let the counters grow. Once for each `Together`."""
    metrics.agents_measured.set(together.agents)
    metrics.agent_memory_bytes.set(together.memory_bytes)
    metrics.agent_memory_ratio_max.set(together.memory_ratio_max)
    metrics.agent_pids.set(together.pids)
    metrics.agents_without.labels("memory_limit").set(together.without_memory_limit)
    metrics.agents_without.labels("pids_limit").set(together.without_pids_limit)
    metrics.agent_cpu_seconds.inc(together.grown.cpu_seconds)
    metrics.agent_throttled_seconds.inc(together.grown.throttled_seconds)
    metrics.agent_oom_kills.inc(together.grown.oom_kills)
