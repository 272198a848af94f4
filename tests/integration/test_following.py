"""A client that outlives its connection, against real sockets that come and go."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_unix
from supervisor.api.following import Patience, ask, follow
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor
from tests.integration.serving import DEADLINE, Serving, unix_server, until
from tests.unit.rpc.fakes import FakeSubscription

PROJECT = "p1"


class Place:
    """A path where servers come and go, and a client that dials it again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: list[ErrorCode] = []
        self.dialled = 0

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[RpcClient]:
        self.dialled += 1
        async with connect_unix(self.path) as client:
            yield client

    def note(self, error: SupervisorError) -> None:
        self.lost.append(error.code)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "api.sock")


def event(n: int, epoch: str = "e") -> bytes:
    return msgspec.json.encode({"type": "event", "cursor": f"{epoch}.{n}", "message": {}})


def told(serving: Serving, *payloads: bytes) -> FakeSubscription:
    """What the next subscriber of this server gets; more can be put in later."""
    subscription = FakeSubscription(list(payloads))
    serving.agent.make_subscription = lambda: subscription
    return subscription


async def test_events_go_on_after_the_cursor_on_the_next_server_each_once(place: Place) -> None:
    seen = []
    async with asyncio.timeout(DEADLINE):
        payloads = follow(place.dial, PROJECT, "t", Cursor.parse("e.0"), on_lost=place.note)
        async with aclosing(payloads):
            async with unix_server(place.path) as first:
                told(first, event(1), event(2))
                seen += [(await anext(payloads))["cursor"] for _ in range(2)]
            async with unix_server(place.path) as second:
                told(second, event(2), event(3))
                seen.append((await anext(payloads))["cursor"])
                asked = second.agent.subscribed
    assert seen == ["e.1", "e.2", "e.3"]
    assert asked == [("t", Cursor.parse("e.2"))]
    assert place.lost[0] is ErrorCode.CONNECTION_LOST


async def test_without_a_cursor_the_snapshot_is_where_it_goes_on(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), aclosing(follow(place.dial, PROJECT)) as payloads:
        async with unix_server(place.path) as first:
            told(first, b'{"type":"snapshot","cursor":"e.7"}')
            assert (await anext(payloads))["type"] == "snapshot"
            assert first.agent.subscribed == [(None, None)]
        async with unix_server(place.path) as second:
            told(second, event(8))
            assert (await anext(payloads))["cursor"] == "e.8"
            assert second.agent.subscribed == [(None, Cursor.parse("e.7"))]


async def test_a_gap_is_passed_on_and_a_new_epoch_begins_anew(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        told(
            serving,
            b'{"type":"expired","code":"cursor_expired","asked":"old.9","oldest":"new.1"}',
            b'{"type":"snapshot","cursor":"new.4"}',
            event(5, "new"),
        )
        payloads = follow(place.dial, PROJECT, after=Cursor.parse("old.9"))
        async with aclosing(payloads):
            kinds = [(await anext(payloads))["type"] for _ in range(3)]
    assert kinds == ["expired", "snapshot", "event"]


async def test_closing_it_ends_the_subscription(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        subscription = told(serving, event(1))
        async with aclosing(follow(place.dial, PROJECT)) as payloads:
            await anext(payloads)
        await until(lambda: subscription.closed)


async def test_what_waiting_cannot_mend_is_raised_at_once(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path):
        with pytest.raises(SupervisorError) as raised:
            await anext(follow(place.dial, "unknown", on_lost=place.note))
        assert raised.value.code is ErrorCode.PROJECT_UNKNOWN
        with pytest.raises(SupervisorError) as raised:
            await ask(place.dial, "unknown", "projectStatus", on_lost=place.note)
        assert raised.value.code is ErrorCode.PROJECT_UNKNOWN
    assert place.lost == []


async def test_it_gives_up_after_its_patience_and_names_the_cursor(place: Place) -> None:
    clock = AdvancingClock()
    patience = Patience(seconds=10, clock=clock, rng=random.Random(7))
    async with asyncio.timeout(DEADLINE):
        payloads = follow(place.dial, PROJECT, after=Cursor.parse("e.5"), patience=patience)
        with pytest.raises(SupervisorError) as raised:
            await anext(payloads)
    assert raised.value.code is ErrorCode.SUPERVISOR_UNREACHABLE
    assert raised.value.details == {"after": "e.5"}
    assert 10 <= clock.at <= 12
    assert place.dialled > 3


async def test_patience_begins_anew_once_something_came(place: Place) -> None:
    clock = AdvancingClock()
    patience = Patience(seconds=10, clock=clock, rng=random.Random(7))
    async with asyncio.timeout(DEADLINE):
        payloads = follow(place.dial, PROJECT, patience=patience)
        async with aclosing(payloads):
            async with unix_server(place.path) as serving:
                told(serving, event(1))
                await anext(payloads)
                clock.at = 1000.0
            with pytest.raises(SupervisorError):
                await anext(payloads)
    assert clock.at >= 1010


async def test_an_answer_lost_with_its_connection_is_asked_for_again(place: Place) -> None:
    params: dict[str, object] = {"threadId": "t", "text": "hello", "idempotencyKey": "k"}
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        async with unix_server(place.path) as first:
            first.agent.gate = asyncio.Event()
            asked = group.create_task(
                ask(place.dial, PROJECT, "sendMessage", params, on_lost=place.note)
            )
            await until(lambda: first.agent.waited_ready == 1)
        async with unix_server(place.path) as second:
            answer = await asked
            [(_, _, key)] = second.agent.acted
    assert answer["turnId"] == "turn-1"
    assert key == "k"
    assert place.lost[0] is ErrorCode.CONNECTION_LOST


async def test_a_store_that_is_away_is_waited_for(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        serving.agent.failure = SupervisorError(ErrorCode.STORE_UNAVAILABLE, "locked")

        def mended(error: SupervisorError) -> None:
            place.note(error)
            serving.agent.failure = None

        await ask(place.dial, PROJECT, "pingProject", on_lost=mended)
    assert place.lost == [ErrorCode.STORE_UNAVAILABLE]


async def test_an_agent_that_failed_is_waited_for_by_who_asks(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        serving.agent.failure = SupervisorError(ErrorCode.AGENT_NOT_READY, "failed")

        def back(error: SupervisorError) -> None:
            place.note(error)
            serving.agent.failure = None

        await ask(place.dial, PROJECT, "pingProject", on_lost=back)
    assert place.lost == [ErrorCode.AGENT_NOT_READY]


async def test_an_agent_that_failed_is_waited_for_by_who_follows(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        serving.agent.make_subscription = refusing(retryable=True)

        def back(error: SupervisorError) -> None:
            place.note(error)
            told(serving, event(1))

        payloads = follow(place.dial, PROJECT, after=Cursor.parse("e.0"), on_lost=back)
        async with aclosing(payloads):
            assert (await anext(payloads))["cursor"] == "e.1"
    assert place.lost == [ErrorCode.AGENT_NOT_READY]


async def test_a_stopped_agent_is_not_waited_for(place: Place) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        serving.agent.make_subscription = refusing(retryable=False)
        with pytest.raises(SupervisorError) as raised:
            await anext(follow(place.dial, PROJECT, on_lost=place.note))
    assert raised.value.code is ErrorCode.AGENT_NOT_READY
    assert place.lost == []


async def test_who_gives_up_on_an_agent_does_not_blame_the_supervisor(place: Place) -> None:
    patience = Patience(seconds=10, clock=AdvancingClock(), rng=random.Random(7))
    async with asyncio.timeout(DEADLINE), unix_server(place.path) as serving:
        serving.agent.make_subscription = refusing(retryable=True)
        payloads = follow(place.dial, PROJECT, after=Cursor.parse("e.5"), patience=patience)
        with pytest.raises(SupervisorError) as raised:
            await anext(payloads)
    assert raised.value.code is ErrorCode.AGENT_NOT_READY
    assert raised.value.details == {"after": "e.5"}


def refusing(*, retryable: bool) -> Callable[[], FakeSubscription]:
    """As an agent whose subscriptions are refused."""

    def refuse() -> FakeSubscription:
        raise SupervisorError(ErrorCode.AGENT_NOT_READY, "failed", retryable=retryable)

    return refuse


class AdvancingClock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> None:
        raise AssertionError("nobody needs the date")

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)
