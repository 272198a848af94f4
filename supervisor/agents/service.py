"""One generation's service: from its first answer to its last (D11).

Handshake, the probe of the inner wall, recovery, then pings. What goes wrong is raised: it is what
the app-server has to be ended for.
"""

from supervisor.agents import inner_wall, starting
from supervisor.agents.condition import Condition
from supervisor.agents.incarnation import Incarnation
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.recovery import Recovery
from supervisor.agents.shared import Shared
from supervisor.audit import record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.lifecycle.agent import AgentEvent, AgentState
from supervisor.logs import get_logger
from supervisor.policy.access import SUPERVISOR
from supervisor.policy.inner_wall import NOT_WANTED, InnerWall, check, goes_without
from supervisor.policy.places import ProjectPaths
from supervisor.ports.store import GenerationRow, ThreadRow

log = get_logger()


class Service:
    """Owned by the supervision; what it learns of one generation is known to the next."""

    def __init__(
        self, shared: Shared, ledger: Ledger, condition: Condition, paths: ProjectPaths
    ) -> None:
        self.codex_version: str | None = None
        self.inner_wall: InnerWall | None = None
        """None: not known yet, or of an app-server that runs in no container."""
        self.unwalled = False
        """The next generation does without the inner wall: it was preferred, and does not hold."""
        self._shared = shared
        self._ledger = ledger
        self._condition = condition
        self._paths = paths

    async def run(
        self,
        inc: Incarnation,
        row: GenerationRow,
        in_use: list[ThreadRow],
        *,
        trusted: bool,
        adopted: bool,
    ) -> None:
        """For ever. `in_use` is emptied once its threads are resumed."""
        began = self._shared.clock.monotonic()
        settings = self._shared.settings
        version = await starting.shake_hands(self._shared, inc.upstream, adopted=adopted)
        self.codex_version = version or self.codex_version or settings.codex_version
        await self._look_at_the_wall(inc, adopted=adopted)
        recovery = Recovery(
            self._shared,
            self._ledger,
            inc.upstream,
            self._paths,
            trusted=trusted,
            same_generation=adopted,
        )
        await recovery.run(in_use)
        in_use.clear()
        await self._tell_ready(row, adopted=adopted)
        if self._condition.state is AgentState.STARTING:
            self._condition.move(AgentEvent.ANSWERED)
            spent = self._shared.clock.monotonic() - began
            self._shared.metrics.agent_start_seconds.observe(spent)
        await self._ping(inc)

    async def _look_at_the_wall(self, inc: Incarnation, *, adopted: bool) -> None:
        """`inner_wall_missing` where it is required, or where the next start is to do without."""
        if not self._shared.runtime.contains or self.unwalled or inc.process.outdated:
            return
        wish = self._shared.settings.podman.inner_wall
        wall = NOT_WANTED
        if wish != "off":
            timeout = self._shared.settings.start_timeout_seconds
            wall = await inner_wall.probe(inc.upstream, self._paths.inside, timeout=timeout)
        self.inner_wall = wall
        check(wish, wall)
        if wall.reason:
            log.warning("inner_wall", state=wall.state.value, reason=wall.reason)
        # One that was adopted is in the middle of its work.
        if goes_without(wish, wall) and not adopted:
            self.unwalled = True
            raise SupervisorError(
                ErrorCode.INNER_WALL_MISSING,
                f"started again without Codex's own sandbox, which does not work: {wall.reason}",
                retryable=True,
            )

    async def _tell_ready(self, row: GenerationRow, *, adopted: bool) -> None:
        params: dict[str, object] = {
            "generation": row.generation,
            "adopted": adopted,
            "codexVersion": self.codex_version,
        }
        change = Change(events=[own_event(starting.AGENT_READY, params)])
        if adopted:
            change.drafts.append(record.agent_adopted(SUPERVISOR, row))
        await self._ledger.barrier(lambda n, at: change, patient=True)

    async def _ping(self, inc: Incarnation) -> None:
        """For ever; `codex_timeout` when it answers no more."""
        settings = self._shared.settings
        while True:
            await self._shared.clock.sleep(settings.ping_interval_seconds)
            if inc.paused:
                continue
            try:
                await inc.upstream.ask(
                    starting.PING, {}, timeout=settings.ping_timeout_seconds, own=True
                )
            except SupervisorError as e:
                # Told to wait by Codex itself: that is an answer.
                if e.code is not ErrorCode.OVERLOADED:
                    raise
