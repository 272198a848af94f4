"""An agent's observed state, as something to wait on."""

import asyncio

from supervisor.lifecycle.agent import AgentEvent, AgentState, next_state
from supervisor.logs import get_logger
from supervisor.metrics import Metrics

log = get_logger()


class Condition:
    """Moved by the supervision only; waited on by anybody."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.agents_in
        self._state = AgentState.STOPPED
        self._gauge[self._state].inc()
        self._changed = asyncio.Event()
        self.reason: str | None = None
        """Why it is not ready, where that has a reason."""

    @property
    def state(self) -> AgentState:
        """As observed."""
        return self._state

    def move(self, event: AgentEvent) -> None:
        """Take `event` in. Raises IllegalTransition."""
        self._gauge[self._state].dec()
        self._state = next_state(self._state, event)
        self._gauge[self._state].inc()
        log.info("agent_state", state=self._state.value, after=event.value)
        self.poke()

    def poke(self) -> None:
        """Wake whoever waits: something they look at has changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait for the next change. Look first, without an await in between."""
        await self._changed.wait()

    def forget(self) -> None:
        """The agent is gone from this supervisor: its gauge goes with it."""
        self._gauge[self._state].dec()
