"""What the supervisor does of its own accord about a line: it counts it, or answers it at once."""

import asyncio
import contextlib
from datetime import datetime

from supervisor.agents.effects import Asked, Effect, Excess, TurnEnded, Unknown
from supervisor.agents.upstream import Upstream
from supervisor.clock import Clock
from supervisor.errors import SupervisorError
from supervisor.metrics import Metrics
from supervisor.protocol import jsonrpc
from supervisor.protocol.encoding import error_response, response

QUESTIONS_LIMIT = 1024
"""Server requests the supervisor has yet to answer itself; past it they go unanswered."""


class Reactions:
    """Of one generation. `run` is its one task."""

    def __init__(self, upstream: Upstream, clock: Clock, metrics: Metrics) -> None:
        self._upstream = upstream
        self._clock = clock
        self._metrics = metrics
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(maxsize=QUESTIONS_LIMIT)

    def on_effect(self, effect: Effect) -> None:
        """React to one effect. Never waits."""
        metrics = self._metrics
        if isinstance(effect, Asked):
            if not effect.waiting:
                self._answer(effect)
        elif isinstance(effect, TurnEnded):
            turn = effect.turn
            metrics.turns.labels(turn.state).inc()
            metrics.turn_seconds.observe(max(0.0, (turn.ended_at or 0) - turn.started_at))
        elif isinstance(effect, Unknown):
            metrics.unknown_notifications.inc()
        elif isinstance(effect, Excess):
            metrics.claims_ignored.labels(effect.kind).inc()
        else:
            metrics.unmatched_responses.inc()

    def _answer(self, asked: Asked) -> None:
        if asked.policy != "clock":
            self._metrics.server_requests_refused.labels(asked.refusal).inc()
        line = answer_at_once(asked, self._clock.now())
        # Now if possible: no checkpoint can pass the question before its answer is written.
        if self._answers.empty() and self._upstream.try_write(line):
            return
        try:
            self._answers.put_nowait(line)
        except asyncio.QueueFull:
            self._metrics.server_requests_refused.labels("overloaded").inc()

    async def run(self) -> None:
        """Write the answers that had to wait, for ever."""
        while True:
            line = await self._answers.get()
            # Gone, and its question with it; or about to be ended, for it reads no more.
            with contextlib.suppress(SupervisorError):
                await self._upstream.write(line)


def answer_at_once(asked: Asked, now: datetime) -> bytes:
    """The answer to a server request that nobody is to be asked (the method table's policy)."""
    if asked.policy == "clock":
        return response(asked.id_raw, {"currentTimeAt": int(now.timestamp())})
    return error_response(
        asked.id_raw, jsonrpc.METHOD_NOT_FOUND, f"{asked.method} is not offered here"
    )
