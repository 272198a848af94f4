"""Exchanges of one peer, driven frame by frame with a transport made of a list."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from supervisor.api.connection import Connection, Limits
from supervisor.buses.frames import encode_cancel, encode_request
from supervisor.errors import ErrorCode, SupervisorError
from tests.unit.rpc.fakes import (
    ALICE,
    THREAD,
    CountingMeter,
    FakeAgent,
    FakeAgents,
    FakeSubscription,
    dispatcher,
)

SUBJECT = "codex.project-p1.account-local.api"
DEADLINE = 30.0


class Wire:
    """What the connection wrote; `stalled` writes wait."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.gone = False
        self._changed = asyncio.Condition()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def send(self, data: bytes) -> None:
        if self.gone:
            raise SupervisorError(ErrorCode.CONNECTION_LOST, "gone")
        self.frames.append(json.loads(data))
        async with self._changed:
            self._changed.notify_all()
        await self._flowing.wait()

    def stall(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def until(self, count: int) -> list[dict[str, Any]]:
        """The frames but for the greeting, once there are `count`."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: len(self.frames) > count)
        return self.frames[1:]


class Rig:
    def __init__(self, limits: Limits) -> None:
        self.agent = FakeAgent("p1")
        self.wire = Wire()
        self.meter = CountingMeter()
        service = dispatcher(FakeAgents(self.agent), self.meter)
        self.connection = Connection(
            ALICE, service, self.wire.send, limits, meter=self.meter, transport="unix"
        )

    def ask(self, inbox: str, method: str, **params: object) -> None:
        self.connection.feed(encode_request(SUBJECT, method, params, inbox))


@asynccontextmanager
async def running(limits: Limits | None = None) -> AsyncIterator[Rig]:
    rig = Rig(limits or Limits())
    leave = asyncio.Event()
    started = asyncio.Event()

    async def read() -> None:
        started.set()
        await leave.wait()

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(rig.connection.run("1.2.3", read))
        await started.wait()
        try:
            yield rig
        finally:
            leave.set()


def errors(frames: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (one["subject"], one["headers"]["error"]["code"])
        for one in frames
        if "error" in one["headers"]
    ]


async def test_the_first_frame_says_whom_the_server_takes_the_peer_for() -> None:
    async with running() as rig:
        assert rig.wire.frames[0]["subject"] == "_HELLO"
        assert rig.wire.frames[0]["payload"]["account"] == "local"


async def test_a_result_is_reply_zero_on_the_inbox() -> None:
    async with running() as rig:
        rig.ask("_INBOX.a", "agentLogs", bytes=3)
        assert await rig.wire.until(1) == [
            {"subject": "_INBOX.a", "headers": {"seq": 0}, "payload": {"text": "end"}}
        ]


async def test_an_inbox_can_be_used_again_after_its_answer() -> None:
    async with running() as rig:
        rig.ask("_INBOX.a", "projectStatus")
        await rig.wire.until(1)
        rig.ask("_INBOX.a", "projectStatus")
        assert errors(await rig.wire.until(2)) == []


async def test_a_live_inbox_used_twice_is_refused_without_ending_the_first() -> None:
    async with running() as rig:
        rig.agent.gate = asyncio.Event()
        rig.ask("_INBOX.a", "pingProject")
        rig.ask("_INBOX.a", "projectStatus")
        frames = await rig.wire.until(1)
        assert errors(frames) == [("_ERROR", "bad_request")]
        assert frames[0]["headers"]["error"]["details"] == {"inbox": "_INBOX.a"}
        rig.agent.gate.set()
        assert (await rig.wire.until(2))[1]["payload"] == {"loadedThreads": 0}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"junk", "junk"),
        (b"", "junk"),
        (b"\xff\xfe", "not_utf8"),
        (b'{"subject":"s"}', "junk"),
        (b'{"subject":"s","reply":"elsewhere"}', "junk"),
        (b"[" * 100_000, "junk"),
    ],
)
async def test_junk_gets_an_error_of_no_exchange_and_the_connection_lives(
    data: bytes, reason: str
) -> None:
    async with running() as rig:
        rig.connection.feed(data)
        assert errors(await rig.wire.until(1)) == [("_ERROR", "bad_request")]
        assert rig.meter.refusals == {("unix", reason): 1}
        rig.ask("_INBOX.a", "projectStatus")
        assert (await rig.wire.until(2))[1]["subject"] == "_INBOX.a"


async def test_a_subject_that_is_none_is_answered_on_the_inbox() -> None:
    async with running() as rig:
        rig.connection.feed(encode_request("codex.*.api", "projectStatus", {}, "_INBOX.a"))
        assert errors(await rig.wire.until(1)) == [("_INBOX.a", "bad_request")]


async def test_a_request_of_another_account_is_forbidden() -> None:
    async with running() as rig:
        subject = "codex.project-p1.account-other.api"
        rig.connection.feed(encode_request(subject, "projectStatus", {}, "_INBOX.a"))
        assert errors(await rig.wire.until(1)) == [("_INBOX.a", "forbidden")]


async def test_requests_past_the_limit_are_told_so_and_the_rest_are_answered() -> None:
    async with running(Limits(in_flight=2)) as rig:
        rig.agent.gate = asyncio.Event()
        for inbox in "abc":
            rig.ask(f"_INBOX.{inbox}", "pingProject")
        assert errors(await rig.wire.until(1)) == [("_INBOX.c", "overloaded")]
        assert rig.meter.refusals == {("unix", "overloaded"): 1}
        rig.agent.gate.set()
        frames = await rig.wire.until(3)
        assert [one["subject"] for one in frames[1:]] == ["_INBOX.a", "_INBOX.b"]


async def test_streams_have_a_limit_of_their_own() -> None:
    async with running(Limits(in_flight=1, streams=1)) as rig:
        rig.ask("_INBOX.s", "subscribe")
        rig.ask("_INBOX.t", "subscribe")
        assert errors(await rig.wire.until(1)) == [("_INBOX.t", "overloaded")]
        rig.ask("_INBOX.a", "projectStatus")
        assert (await rig.wire.until(2))[1]["subject"] == "_INBOX.a"


async def test_a_stream_is_numbered_from_zero_and_ended_by_an_empty_reply() -> None:
    async with running() as rig:
        rig.agent.make_subscription = lambda: FakeSubscription([b'{"a":1}', b'{"a":2}'])
        rig.ask("_INBOX.s", "subscribe", after="e.5", threadId=THREAD)
        await rig.wire.until(2)
        rig.agent.subscriptions[0].close()
        frames = await rig.wire.until(3)
        assert [one["headers"] for one in frames] == [
            {"seq": 0},
            {"seq": 1},
            {"seq": 2, "end": True},
        ]
        assert [one["payload"] for one in frames] == [{"a": 1}, {"a": 2}, None]
        [(thread, after)] = rig.agent.subscribed
        assert (thread, str(after)) == (THREAD, "e.5")


async def test_a_bad_cursor_ends_the_stream_before_it_begins() -> None:
    async with running() as rig:
        rig.ask("_INBOX.s", "subscribe", after="not a cursor")
        assert errors(await rig.wire.until(1)) == [("_INBOX.s", "bad_request")]
        assert not rig.agent.subscribed


async def test_a_stream_its_client_cancels_is_let_go_and_ended() -> None:
    async with running() as rig:
        rig.agent.make_subscription = lambda: FakeSubscription([b"1"])
        rig.ask("_INBOX.s", "subscribe")
        await rig.wire.until(1)
        rig.connection.feed(encode_cancel(SUBJECT, "_INBOX.s"))
        frames = await rig.wire.until(2)
        assert frames[1]["headers"] == {"seq": 1, "end": True}
        assert rig.agent.subscriptions[0].closed
        rig.ask("_INBOX.s", "projectStatus")
        assert (await rig.wire.until(3))[2]["payload"]["project"] == "p1"


async def test_a_cancel_right_behind_its_subscription_ends_it_too() -> None:
    async with running() as rig:
        rig.ask("_INBOX.s", "subscribe")
        rig.connection.feed(encode_cancel(SUBJECT, "_INBOX.s"))
        assert (await rig.wire.until(1))[0]["headers"] == {"seq": 0, "end": True}
        assert not rig.agent.subscriptions


async def test_cancelling_what_is_no_stream_changes_nothing() -> None:
    async with running() as rig:
        rig.agent.gate = asyncio.Event()
        rig.ask("_INBOX.a", "pingProject")
        rig.connection.feed(encode_cancel(SUBJECT, "_INBOX.a"))
        rig.connection.feed(encode_cancel(SUBJECT, "_INBOX.never"))
        rig.agent.gate.set()
        assert (await rig.wire.until(1))[0]["payload"] == {"loadedThreads": 0}


async def test_a_stream_that_breaks_ends_alone_and_is_logged() -> None:
    class Broken(FakeSubscription):
        async def _all(self) -> AsyncIterator[bytes]:
            yield b"1"
            raise KeyError("secret")

    async with running() as rig:
        rig.agent.make_subscription = lambda: Broken([])
        with structlog.testing.capture_logs() as logs:
            rig.ask("_INBOX.s", "subscribe")
            frames = await rig.wire.until(2)
        assert errors(frames) == [("_INBOX.s", "internal")]
        assert frames[1]["headers"]["seq"] == 1
        assert "secret" not in json.dumps(frames)
        assert len(logs) == 1
        assert rig.agent.subscriptions[0].closed


async def test_an_endless_stream_read_at_full_speed_leaves_others_their_turn() -> None:
    async with running() as rig:
        rig.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        rig.ask("_INBOX.s", "subscribe")
        await rig.wire.until(200)
        rig.ask("_INBOX.a", "projectStatus")
        while not any(one["subject"] == "_INBOX.a" for one in rig.wire.frames):
            await rig.wire.until(len(rig.wire.frames))


async def test_a_stalled_stream_takes_no_more_than_was_written() -> None:
    async with running() as rig:
        rig.wire.stall()
        rig.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        rig.ask("_INBOX.s", "subscribe")
        await rig.wire.until(1)
        rig.ask("_INBOX.a", "projectStatus")
        await rig.wire.until(2)
        assert rig.agent.subscriptions[0].taken == 1
        rig.wire.flow()
        await rig.wire.until(5)


async def test_unread_errors_choke_the_connection_until_they_are_read() -> None:
    async with running(Limits(refusals=3)) as rig:
        rig.wire.stall()
        for _ in range(2):
            rig.connection.feed(b"junk")
        early = rig.connection.choked
        rig.connection.feed(b"junk")
        choked = rig.connection.choked
        rig.wire.flow()
        await rig.connection.relief()
        assert (early, choked) == (False, True)
        assert not rig.connection.choked


async def test_when_the_peer_goes_reads_are_dropped_and_acts_are_carried_out() -> None:
    async with running() as rig:
        rig.agent.gate = asyncio.Event()
        rig.ask("_INBOX.a", "pingProject")
        rig.ask("_INBOX.b", "interruptTurn", threadId=THREAD, turnId="u1")
        rig.ask("_INBOX.s", "subscribe")
        while len(rig.agent.asked) + len(rig.agent.subscribed) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        rig.wire.gone = True
        rig.connection.close()
        assert not rig.agent.acted
        rig.agent.gate.set()
    assert [method for method, _, _ in rig.agent.acted] == ["turn/interrupt"]
    assert rig.meter.requests["pingProject", "connection_lost"] == 1
    assert len(rig.wire.frames) == 1


async def test_nothing_is_begun_for_a_peer_that_has_gone() -> None:
    async with running() as rig:
        rig.connection.close()
        rig.ask("_INBOX.a", "interruptTurn", threadId=THREAD, turnId="u1")
        rig.connection.feed(b"junk")
    assert not rig.agent.acted
    assert len(rig.wire.frames) == 1
