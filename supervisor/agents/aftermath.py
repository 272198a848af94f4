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
    RestartPolicy,
    decide,
    remember,
)


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

    async def after(self, kind: ExitKind, detail: str, *, wanted: bool) -> str | None:
        """Move on from an exit, in its own time; why it is given up, if it is."""
        condition, clock = self._condition, self._shared.clock
        if condition.state is not AgentState.LOST:
            condition.move(AgentEvent.EXITED)
        if condition.state is AgentState.STOPPED:
            return None
        self._history = remember(self._history, PastExit(clock.monotonic(), kind), self._policy)
        verdict = decide(self._history, clock.monotonic(), self._shared.rng, self._policy)
        if isinstance(verdict, Quarantine):
            condition.reason = f"{verdict.reason}: {detail}"
            await self._tell(verdict, detail)
            condition.move(AgentEvent.GIVE_UP)
            return condition.reason
        condition.reason = f"{kind.value}: {detail}"
        if wanted and not await self._stopped_within(verdict.delay_seconds):
            self._shared.metrics.agent_restarts.inc()
            condition.move(AgentEvent.RETRY)
        else:
            condition.move(AgentEvent.STOP)
        return None

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.stop_wanted.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, verdict: Quarantine, detail: str) -> None:
        params: dict[str, object] = {
            "kind": verdict.kind.value,
            "reason": verdict.reason,
            "detail": detail,
        }
        event = own_event("supervisor/agentQuarantined", params)
        await self._ledger.barrier(lambda n, at: Change(events=[event]), patient=True)
