"""A client that outlives its connection: reconnect, continue after the cursor, ask again.

A supervisor may be killed and come back at any moment; what it said of the project is numbered, so
that a client that knows its last cursor misses nothing. Two functions for programs of any kind:

    async with aclosing(follow(dial, project, after=cursor)) as payloads:
        async for payload in payloads: ...              # every event once, in order

    sent = await ask(dial, project, "sendMessage", {..., "idempotencyKey": key})

`dial` makes a fresh connection each time (`supervisor.api.dialing`): it may as well start a
supervisor where there is none. Whatever cannot be mended by waiting is raised at once.
"""

import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field

from supervisor.api.client import RpcClient
from supervisor.clock import Clock, SystemClock, system_random
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor

Dial = Callable[[], AbstractAsyncContextManager[RpcClient]]
"""Makes one connection. Raises `supervisor_unreachable` where nobody answers."""
Lost = Callable[[SupervisorError], object]
"""Told of each loss, before it is waited and tried again."""

_PASSING = frozenset(
    {
        ErrorCode.CONNECTION_LOST,
        ErrorCode.SUPERVISOR_UNREACHABLE,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.OVERLOADED,
    }
)
"""What a successor, or a moment, may mend."""


def is_passing(error: SupervisorError) -> bool:
    """Whether `follow` and `ask` wait such an error out.

    An agent that failed, or is not opened again yet, comes back by itself; a stopped one does not,
    and its error says so.
    """
    if error.code is ErrorCode.AGENT_NOT_READY:
        return error.retryable
    return error.code in _PASSING


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to keep trying after a loss, and how often: full jitter, doubling up to a cap."""

    seconds: float = 60.0
    """From the loss on; starts anew once something was received again."""
    base_seconds: float = 0.05
    cap_seconds: float = 2.0
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=system_random)


class _Trials:
    """The tries since the last success. Owned by one `follow` or `ask`."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._count = 0
        self._since: float | None = None

    def succeeded(self) -> None:
        self._count, self._since = 0, None

    async def wait(self, error: SupervisorError, after: str | None) -> None:
        """Wait before the next try, or give up: `supervisor_unreachable`, `agent_not_ready`."""
        patience, now = self._patience, self._patience.clock.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= patience.seconds:
            # A supervisor that says so is there: only its agent is missing.
            there = error.code is ErrorCode.AGENT_NOT_READY
            raise SupervisorError(
                error.code if there else ErrorCode.SUPERVISOR_UNREACHABLE,
                f"gave up after {patience.seconds:.0f} s: {error.message}",
                details={} if after is None else {"after": after},
            ) from error
        bound = min(patience.cap_seconds, patience.base_seconds * 2 ** min(self._count, 16))
        self._count += 1
        await patience.clock.sleep(patience.rng.uniform(0, bound))


class _Place:
    """How far a stream has been seen."""

    def __init__(self, after: Cursor | None) -> None:
        self._last = after

    @property
    def cursor(self) -> str | None:
        return None if self._last is None else str(self._last)

    def params(self, thread_id: str | None) -> dict[str, object]:
        params: dict[str, object] = {}
        if thread_id is not None:
            params["threadId"] = thread_id
        if self._last is not None:
            params["after"] = str(self._last)
        return params

    def takes(self, payload: Mapping[str, object]) -> bool:
        """Whether the payload is news. Moves on past it."""
        kind, text = payload.get("type"), payload.get("cursor")
        if kind not in ("event", "snapshot") or not isinstance(text, str):
            return True
        cursor, last = Cursor.parse(text), self._last
        if (
            kind == "event"
            and last is not None
            and cursor.epoch == last.epoch
            and cursor.n <= last.n
        ):
            return False
        self._last = cursor
        return True


async def follow(
    dial: Dial,
    project: str,
    thread_id: str | None = None,
    after: Cursor | None = None,
    *,
    patience: Patience | None = None,
    on_lost: Lost | None = None,
) -> AsyncGenerator[dict[str, object], None]:
    """The payloads of `subscribe` (see docs/rpc.md), each event once, across connections.

    Without `after` a snapshot comes first. `expired` and `lagging` are passed on: after `expired`
    a snapshot follows. Ends only by being closed. Raises `supervisor_unreachable` when nobody has
    answered for as long as `patience` says, or `agent_not_ready` when a supervisor has but the
    agent has not come back; the details name the cursor to go on `after`.
    """
    place, trials = _Place(after), _Trials(patience or Patience())
    while True:
        try:
            async with dial() as client:
                stream = client.stream(project, "subscribe", place.params(thread_id))
                async with aclosing(stream):
                    async for payload in stream:
                        trials.succeeded()
                        shown = _object(payload)
                        if not place.takes(shown):
                            continue
                        try:
                            yield shown
                        except GeneratorExit:
                            # Leaves `dial` in order: a task group in it would wrap the exit.
                            return
            error = SupervisorError(ErrorCode.CONNECTION_LOST, "the supervisor ended the stream")
        except SupervisorError as raised:
            if not is_passing(raised):
                raise
            error = raised
        if on_lost is not None:
            on_lost(error)
        await trials.wait(error, place.cursor)


async def ask(
    dial: Dial,
    project: str | None,
    method: str,
    params: dict[str, object] | None = None,
    *,
    patience: Patience | None = None,
    on_lost: Lost | None = None,
) -> dict[str, object]:
    """One call, made again on a new connection when the answer was lost with the old one.

    So ask only what may be asked twice: what reads, what is idempotent by nature, or what carries
    an `idempotencyKey`: then the first one's answer comes, and nothing is done twice.
    """
    trials = _Trials(patience or Patience())
    while True:
        try:
            async with dial() as client:
                return _object(await client.call(project, method, params))
        except SupervisorError as error:
            if not is_passing(error):
                raise
            if on_lost is not None:
                on_lost(error)
            await trials.wait(error, None)


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SupervisorError(ErrorCode.CONNECTION_LOST, "the supervisor sent no JSON object")
    return value
