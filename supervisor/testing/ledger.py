"""What the scripted model remembers of the requests it got, for oracles.

Owned by the model's event loop; oracles in the same loop may read `requests` at any time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from supervisor.clock import Clock
from supervisor.testing.turns import Asked

MAXIMUM_REQUESTS: Final = 100_000
"""Requests kept; past it the oldest tenth is dropped, and counted."""
MAXIMUM_ATTEMPTS: Final = 10_000
"""Steps whose attempts are counted at once; past it the oldest count starts again."""
PROMPT_KEPT: Final = 4096

Observe = Callable[["ModelRequest"], None]


class ModelRequest(msgspec.Struct, kw_only=True):
    """One call of the model. Times are `Clock.monotonic` seconds; ids are the client's claims."""

    number: int
    """From 0, in order of arrival."""
    thread_id: str | None
    turn_id: str | None
    model: str | None
    prompt: str
    """The first `PROMPT_KEPT` characters of the last user message."""
    prompt_hash: str
    """sha256 hex of all of it."""
    answered: int
    """Tool outputs after the prompt."""
    attempt: int
    """From 1: how often this very step of this very turn was asked for."""
    authorization: str | None
    at: float
    steps: tuple[str, ...] = ()
    """What the response performs, in order: directive kinds, in lower case."""
    outcome: str = "open"
    """`open`, `completed`, `failed`, `cut`, or `gone`: the client left before the end."""
    ended_at: float | None = None


class Ledger:
    """Every request, numbered, with its attempt counted."""

    def __init__(self, clock: Clock, observe: Observe | None) -> None:
        self.requests: list[ModelRequest] = []
        self.dropped = 0
        self._clock = clock
        self._observe = observe
        self._attempts: OrderedDict[tuple[str | None, str | None, str, int], int] = OrderedDict()
        self._changed = asyncio.Event()

    def begin(self, asked: Asked, authorization: str | None) -> ModelRequest:
        """Note a request that has arrived."""
        prompt_hash = asked.prompt_hash
        request = ModelRequest(
            number=len(self.requests) + self.dropped,
            thread_id=asked.thread_id,
            turn_id=asked.turn_id,
            model=asked.model,
            prompt=asked.prompt[:PROMPT_KEPT],
            prompt_hash=prompt_hash,
            answered=asked.answered,
            attempt=self._count((asked.thread_id, asked.turn_id, prompt_hash, asked.answered)),
            authorization=authorization,
            at=self._clock.monotonic(),
        )
        if len(self.requests) >= MAXIMUM_REQUESTS:
            del self.requests[: MAXIMUM_REQUESTS // 10]
            self.dropped += MAXIMUM_REQUESTS // 10
        self.requests.append(request)
        return request

    def planned(self, request: ModelRequest, steps: tuple[str, ...]) -> None:
        """Note what will be answered, and tell whoever waits of the request."""
        request.steps = steps
        self._tell(request)

    def end(self, request: ModelRequest, outcome: str) -> None:
        """Note how it ended."""
        request.outcome = outcome
        request.ended_at = self._clock.monotonic()
        self._tell(request)

    async def wait_for(
        self, count: int, wanted: Callable[[ModelRequest], bool]
    ) -> list[ModelRequest]:
        """Return the `wanted` requests once there are `count`; judged again when one ends."""
        while len(found := [request for request in self.requests if wanted(request)]) < count:
            await self._changed.wait()
        return found

    def _count(self, key: tuple[str | None, str | None, str, int]) -> int:
        attempt = self._attempts.pop(key, 0) + 1
        self._attempts[key] = attempt
        if len(self._attempts) > MAXIMUM_ATTEMPTS:
            self._attempts.popitem(last=False)
        return attempt

    def _tell(self, request: ModelRequest) -> None:
        if self._observe is not None:
            self._observe(request)
        self._changed.set()
        self._changed = asyncio.Event()
