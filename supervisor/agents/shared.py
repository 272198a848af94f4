"""What every agent of a supervisor shares, handed to each by the composition root."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.agents.ledger import Place
from supervisor.agents.upstream import RequestIds
from supervisor.agents.watch import Watcher
from supervisor.clock import Clock
from supervisor.ids import ProjectId
from supervisor.metrics import Metrics
from supervisor.policy import pinned
from supervisor.ports.disk import Disk
from supervisor.ports.runtime import Runtime
from supervisor.ports.store import Store
from supervisor.settings import Settings


@dataclass(frozen=True, slots=True)
class Shared:
    """One per supervisor."""

    settings: Settings
    store: Store
    runtime: Runtime
    disk: Disk | None
    """What bounds contained projects; None on the host."""
    watcher: Watcher
    clock: Clock
    rng: random.Random
    metrics: Metrics
    place: Place
    request_ids: RequestIds
    state_id: str
    """Names this state directory in markers: two supervisors never end each other's processes."""
    clean_shutdown: bool
    """The last supervisor here ended cleanly: a new boot id proves nothing against it."""
    project_dir: Callable[[ProjectId], Path]
    codex: Callable[[], Sequence[str]]
    """The command to start, without `app-server`; raises `codex_missing`."""
    environment: dict[str, str]
    """What an app-server's environment starts from."""
    starts: asyncio.Semaphore
    """How many app-servers may be starting at once."""
    closing: asyncio.Event
    """The supervisor ends, and app-servers with it: none is started any more."""

    @property
    def forbidden_sandboxes(self) -> frozenset[str]:
        """Modes that no thread can have here, whatever it was started with."""
        return pinned.forbidden_sandboxes(self.settings) if self.runtime.contains else frozenset()
