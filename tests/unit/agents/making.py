"""Real small parts of an agent, over a store in memory and spools in a temporary directory."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from prometheus_client import CollectorRegistry

from supervisor.agents.carrier import Carrier
from supervisor.agents.effects import Effect
from supervisor.agents.ledger import Place
from supervisor.agents.opening import Opened, open_ledger
from supervisor.agents.projection import Projection
from supervisor.agents.shared import Shared
from supervisor.agents.state import AgentMemory
from supervisor.agents.upstream import RequestIds
from supervisor.agents.watch import Watcher
from supervisor.audit.chain import Chain
from supervisor.broker.entry import parse_line
from supervisor.ids import Generation, ProjectId
from supervisor.metrics import Metrics
from supervisor.policy.access import Principal
from supervisor.ports.runtime import Runtime
from supervisor.settings import Settings
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock, seeded

T = TypeVar("T")
PROJECT = ProjectId("p-0123456789")
ME = Principal(account="local", principal="me", source="unix:uid=0", client="test")
LINE_LIMIT = 64 * 1024


class _NoRuntime:
    contains = False
    name = "host"


def shared(root: Path, store: MemoryStore, clock: FakeClock, **settings: Any) -> Shared:
    """What an agent of `root` shares; nothing of it starts a process."""
    told = Settings(
        **{
            "state_dir": root / "state",
            "codex_home": root / "codex-home",
            "line_limit_bytes": LINE_LIMIT,
        }
        | settings
    )
    (root / "projects" / PROJECT).mkdir(parents=True, exist_ok=True)
    return Shared(
        settings=told,
        store=store,
        runtime=cast("Runtime", _NoRuntime()),
        disk=None,
        watcher=cast("Watcher", None),
        clock=clock,
        rng=seeded(1),
        metrics=Metrics(CollectorRegistry()),
        place=Place(host="here", boot_id="boot-1"),
        request_ids=RequestIds("run"),
        state_id="state",
        clean_shutdown=False,
        project_dir=lambda project: root / "projects" / project,
        codex=lambda: ["codex"],
        environment={},
        starts=asyncio.Semaphore(1),
        closing=asyncio.Event(),
    )


class AtOnce(Carrier):
    """Carries in the caller's own task: no test goes away in the middle of what it asked for."""

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        return await work


async def opened(parts: Shared) -> Opened:
    """The project as its agent would open it."""
    return await open_ledger(parts, PROJECT, AtOnce())


def projection() -> Projection:
    """One that knows nothing yet, in its first generation."""
    made = Projection(PROJECT, AgentMemory(PROJECT), Chain(PROJECT, "here"))
    made.generation = Generation(1)
    made.at = 100.0
    return made


def line(method: str, **params: object) -> bytes:
    """A notification as the app-server writes it."""
    return msgspec.json.encode({"method": method, "params": params})


def fold(into: Projection, *lines: bytes, first_n: int = 1) -> list[Effect | None]:
    """The effects of lines, numbered from `first_n`."""
    return [into.line(n, one, parse_line(one)) for n, one in enumerate(lines, first_n)]
