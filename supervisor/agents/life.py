"""A project's life under one supervisor: its agent, and after a failure of that agent the next one.

An agent that fails (a file system full or gone, a fault of ours) takes nothing with it but itself:
the project stays listed, says what happened, and is opened again after a pause.
"""

import asyncio
from pathlib import Path

from supervisor.agents.agent import Agent
from supervisor.agents.shared import Shared
from supervisor.logs import bound, get_logger
from supervisor.ports.store import ProjectRow

PAUSE_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before each further try; the last one again and again."""
SOUND_SECONDS = 60.0
"""An agent that lived so long starts the pauses anew."""
log = get_logger()


class Life:
    """Owned by the pool; `run` is its one task."""

    def __init__(self, shared: Shared, row: ProjectRow, strays: frozenset[str]) -> None:
        self.account = row.account
        self.path = Path(row.path)
        self.agent: Agent | None = None
        """The one that was opened last, perhaps failed since."""
        self._shared = shared
        self._row = row
        self._strays = strays
        self._attempt = self._next_attempt()
        self._hurry = asyncio.Event()

    @property
    def failed(self) -> bool:
        """Whether there is no agent now that could end its app-server in order."""
        return self.agent is None or self.agent.failure is not None

    @property
    def marker(self) -> str | None:
        """Of the generation that is looked after; None while nobody knows which will be."""
        return None if self.agent is None or self.failed else self.agent.marker

    async def end_processes(self) -> None:
        """End what a failed agent, or a predecessor of one that was never opened, left running."""
        if self.agent is not None:
            await self.agent.end_processes()
        for stray in self._strays:
            await self._shared.runtime.sweep(stray)

    def _next_attempt(self) -> asyncio.Future[Agent]:
        return asyncio.get_running_loop().create_future()

    async def opened(self) -> Agent:
        """The agent, once it can be used. Raises what opening it raises now."""
        if self.agent is not None and self.agent.failure is None:
            return self.agent
        self._hurry.set()
        return await asyncio.shield(self._attempt)

    async def run(self) -> None:
        """For ever. Cancelled, it leaves the app-server running."""
        failures = 0
        while True:
            began = self._shared.clock.monotonic()
            async with asyncio.TaskGroup() as attempt:
                # A task of its own: a group that fails may leave its task marked as being cancelled
                # (Python 3.11.2 does), and the timeout below would end it.
                attempt.create_task(self._once())
            self._hurry.clear()  # whoever was in a hurry has been told
            sound = self._shared.clock.monotonic() - began > SOUND_SECONDS
            failures = 0 if sound else min(failures + 1, len(PAUSE_SECONDS) - 1)
            try:
                async with asyncio.timeout(PAUSE_SECONDS[failures]):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    async def _once(self) -> None:
        agent: Agent | None = None
        with bound(project=self._row.project):
            try:
                # What the last agent knew may not be all that was wished and stored.
                self._row = await self._shared.store.project(self._row.project) or self._row
                opening = agent = Agent(self._shared, self._row, strays=self._strays)
                await agent.run(lambda: self._on_open(opening))
            except Exception as e:  # one project's failure is no other's
                log.exception("agent_failed")
                self._on_failure(agent, e)

    def _on_open(self, agent: Agent) -> None:
        self.agent = agent
        self._strays = frozenset()
        self._attempt.set_result(agent)
        self._attempt = self._next_attempt()

    def _on_failure(self, agent: Agent | None, error: Exception) -> None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if agent is not None and agent is self.agent:
            agent.fail(f"{type(error).__name__}: {error}")
            return
        self._attempt.set_exception(error)
        self._attempt.exception()  # seen, if nobody waits
        self._attempt = self._next_attempt()
