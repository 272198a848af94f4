"""A turn as `run` watches it, against a server that loses what happened meanwhile."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.api.dialing import connect_unix
from supervisor.cli.watching import DETACHED, Link, Watch
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.agent import Acted
from tests.integration.serving import DEADLINE, Serving, unix_server, until
from tests.unit.rpc.fakes import THREAD, FakeSubscription, raw


class Shown:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.payloads: list[Mapping[str, object]] = []
        self.said: list[str] = []
        self.ended = False

    def show(self, payload: Mapping[str, object]) -> None:
        self.payloads.append(payload)

    def say(self, text: str) -> None:
        self.said.append(text)

    def end(self) -> None:
        self.ended = True


class Nobody:
    """Asks nobody."""

    def heard(self, payload: Mapping[str, object]) -> None:
        """Let it pass."""

    async def run(self) -> None:
        await asyncio.Future()


def watch(path: Path) -> tuple[Watch, Shown]:
    link = Link(lambda: connect_unix(path), lambda error: None, "p1")
    shown = Shown()
    return Watch(link, shown, Nobody(), THREAD, "e.0"), shown


def told(serving: Serving, *payloads: object) -> FakeSubscription:
    subscription = FakeSubscription([msgspec.json.encode(one) for one in payloads])
    serving.agent.make_subscription = lambda: subscription
    return subscription


def ended(n: int, turn_id: str, status: str) -> dict[str, object]:
    params = {"threadId": THREAD, "turn": {"id": turn_id, "status": status}}
    message = {"method": "turn/completed", "params": params}
    return {"type": "event", "cursor": f"e.{n}", "message": message}


async def test_the_end_may_come_before_the_answer_that_names_the_turn(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(tmp_path / "s") as serving:
        told(serving, ended(4, "another", "completed"), ended(5, "turn-1", "failed"))
        made, shown = watch(tmp_path / "s")
        act = serving.agent.act

        async def late(*args: Any, **more: Any) -> Acted:
            await until(lambda: len(shown.payloads) == 2)
            return await act(*args, **more)

        serving.agent.act = late  # type: ignore[method-assign]
        assert await made.carry_out({"text": "x"}) == "failed"
        assert (made.cursor, made.turn_id) == ("e.5", "turn-1")
        assert shown.ended


@pytest.mark.parametrize("status", ["completed", "interrupted"])
async def test_a_turn_that_ended_in_a_gap_is_looked_up_and_what_was_missed_is_shown(
    tmp_path: Path, status: str
) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(tmp_path / "s") as serving:
        told(
            serving,
            {"type": "expired", "code": "cursor_expired", "asked": "e.0", "oldest": "f.1"},
            {"type": "snapshot", "cursor": "f.9", "agent": {}, "threads": [], "approvals": []},
        )
        items = [{"type": "userMessage", "id": "u"}, {"type": "agentMessage", "id": "m"}]
        turn = {"id": "turn-1", "status": status, "items": items}

        async def ask(method: str, params: object) -> msgspec.Raw:
            assert method == "thread/read"
            cwd = serving.agent.path
            return raw({"thread": {"id": THREAD, "cwd": cwd, "turns": [turn]}})

        serving.agent.ask = ask  # type: ignore[method-assign]
        made, shown = watch(tmp_path / "s")
        assert await made.carry_out({"text": "x"}) == status
    shown_items = [payload for payload in shown.payloads if payload["type"] == "event"]
    assert [one["message"]["params"]["item"]["id"] for one in shown_items] == ["m"]  # type: ignore[index]


async def test_a_message_that_is_refused_ends_the_watch_with_the_refusal(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE), unix_server(tmp_path / "s") as serving:
        told(serving)

        async def act(*args: object, **more: object) -> None:
            raise SupervisorError(ErrorCode.TURN_ACTIVE, "a turn runs")

        serving.agent.act = act  # type: ignore[assignment]
        made, shown = watch(tmp_path / "s")
        with pytest.raises(ExceptionGroup) as raised:
            await made.carry_out({"text": "x"})
        [error] = raised.value.exceptions
        assert isinstance(error, SupervisorError)
        assert error.code is ErrorCode.TURN_ACTIVE
        assert shown.ended
        assert DETACHED not in shown.said
