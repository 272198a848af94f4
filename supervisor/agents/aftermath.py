"""What follows an app-server's end: a pause and another start, rest, or quarantine (D10)."""

import asyncio

from supervisor.agents.condition import Condition
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.shared import Shared
from supervisor.lifecycle.agent import AgentEvent, AgentState
from supervisor.lifecycle.restart import (
    ExitKind,
    PastExit,
    Quarantine,
    Restart,
    RestartPolicy,
    decide,
    remember,
)
from supervisor.ports.store import Batch, ProjectRow


class Aftermath:
    """Owned by one supervision, which it tells nothing: it moves the condition."""

    def __init__(self, shared: Shared, ledger: Ledger, condition: Condition) -> None:
        self.stop_wanted = asyncio.Event()
        """Somebody wants the app-server to end: it, or the pause before its next start."""
        self._shared = shared
        self._ledger = ledger
        self._condition = condition
        self._history: tuple[PastExit, ...] = ()
        restart = shared.settings.restart
        self._policy = RestartPolicy(
            restart.base_seconds, restart.cap_seconds, restart.intensity, restart.period_seconds
        )

    @property
    def restarts(self) -> int:
        """Unasked exits within the period that counts."""
        now = self._shared.clock.monotonic()
        recent = (p for p in self._history if now - p.at_monotonic < self._policy.period_seconds)
        return sum(past.kind is not ExitKind.ASKED for past in recent)

    def forget(self) -> None:
        """A person looked at it: exits so far count no more."""
        self._history = ()

    def judge(self, kind: ExitKind) -> Restart | Quarantine | None:
        """Move on from an exit; what is to follow, None if it was asked for."""
        condition, clock = self._condition, self._shared.clock
        if condition.state is not AgentState.LOST:
            condition.move(AgentEvent.EXITED)
        if condition.state is AgentState.STOPPED:
            return None
        self._history = remember(self._history, PastExit(clock.monotonic(), kind), self._policy)
        return decide(self._history, clock.monotonic(), self._shared.rng, self._policy)

    async def back_off(self, seconds: float, *, wanted: bool) -> None:
        """Wait, and try again; rest, if it is not wanted, or somebody wants rest meanwhile."""
        if not wanted or await self._stopped_within(seconds):
            self._condition.move(AgentEvent.STOP)
        else:
            self._shared.metrics.agent_restarts.inc()
            self._condition.move(AgentEvent.RETRY)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.stop_wanted.wait()
        except TimeoutError:
            return False
        return True

    async def tell(self, verdict: Quarantine, detail: str, row: ProjectRow) -> None:
        """Say that it is given up, and keep that in the project's row."""
        params: dict[str, object] = {
            "kind": verdict.kind.value,
            "reason": verdict.reason,
            "detail": detail,
        }
        event = own_event("supervisor/agentQuarantined", params)
        change = Change(events=[event], rows=Batch(project=row.project, wished=row))
        await self._ledger.barrier(lambda n, at: change, patient=True)
