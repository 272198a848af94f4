"""Requests that act over an app-server that is slow, or says nothing in time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from supervisor.agents.acting import Acting
from supervisor.agents.carrier import Carrier
from supervisor.agents.ledger import Change, Ledger
from supervisor.agents.opening import open_ledger
from supervisor.agents.recovery import SEARCH_PAUSE_SECONDS, SEARCHES
from supervisor.agents.starting import PING
from supervisor.agents.upstream import UnwrittenError, Upstream
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.places import ProjectPaths
from supervisor.ports.agent import Acted
from supervisor.ports.store import Batch, IntentRow
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.contract.stored import thread
from tests.unit.agents.making import ME, PROJECT, fold, shared

TIMEOUT = SupervisorError(ErrorCode.CODEX_TIMEOUT, "no answer in time")


class AppServer:
    """An upstream whose answers the test decides, and may hold back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        """Methods that are answered once their event is set."""
        self.silent: set[str] = set()
        """Methods that time out."""
        self.unread: set[str] = set()
        """Methods that are not read to their end."""
        self.turns: list[dict[str, Any]] = []
        self.closed = False

    async def ask(
        self,
        method: str,
        params: object,
        *,
        timeout: float,
        request_id: str | None = None,
        own: bool = False,
    ) -> msgspec.Raw:
        self.asked.append(method)
        if method in self.held:
            await self.held[method].wait()
        if method in self.silent:
            raise TIMEOUT
        if method in self.unread:
            raise UnwrittenError(ErrorCode.CODEX_TIMEOUT, "not read in time")
        result = {"thread": {"turns": self.turns}} if method == "thread/read" else {}
        return msgspec.Raw(msgspec.json.encode(result))

    def accepts(self, request_id: str, turn: str) -> None:
        """A turn carries the message of that request."""
        self.turns.append({"id": turn, "items": [{"clientId": request_id}]})


class Bench:
    def __init__(
        self, acting: Acting, ledger: Ledger, store: MemoryStore, clock: FakeClock
    ) -> None:
        self.acting, self.ledger, self.store, self.clock = acting, ledger, store, clock
        self.app_server = AppServer()

    async def act(self, method: str, key: str | None = None, **params: object) -> Acted:
        return await self.acting.act(ME, method, params, key)

    async def refused(self, method: str, key: str | None = None, **params: object) -> ErrorCode:
        with pytest.raises(SupervisorError) as raised:
            await self.act(method, key, **params)
        return raised.value.code

    def answers(self, request_id: str, turn: str) -> None:
        """The app-server answers, whoever still waits."""
        answer = b'{"id":"%b","result":{"turn":{"id":"%b"}}}'
        answer %= request_id.encode(), turn.encode()
        fold(self.ledger.projection, answer, first_n=self.ledger.next_n)

    async def intent(self, state: str) -> IntentRow:
        """The one intent there is, once it is in that state."""
        while True:
            await self.ledger.flush()
            (row,) = self.store._rows[PROJECT].intents.values()
            if row.state == state:
                return row
            await asyncio.sleep(0)


@asynccontextmanager
async def acting(tmp_path: Path) -> AsyncIterator[Bench]:
    """Over a thread that is loaded and one that is not; what is under way is let go in the end."""
    store, clock = MemoryStore(), FakeClock()
    await store.open()
    parts = shared(tmp_path, store, clock, request_timeout_seconds=0.05)
    async with asyncio.timeout(30), Carrier() as carrier:
        ledger = (await open_ledger(parts, PROJECT, carrier)).ledger
        of = Acting(
            parts,
            ledger,
            ProjectPaths(tmp_path, tmp_path),
            carrier=carrier,
            trusted=lambda: False,
            upstream=lambda: cast("Upstream", made.app_server),
        )
        made = Bench(of, ledger, store, clock)
        rows = {
            name: thread(name, PROJECT, status=status, cwd=str(tmp_path))
            for name, status in (("long", "not_loaded"), ("other", "idle"))
        }
        await ledger.barrier(lambda n, at: Change(rows=Batch(project=PROJECT, threads=rows)))
        try:
            yield made
        finally:
            made.app_server.closed = True
            clock.advance(1.0)


async def test_a_thread_that_is_slow_to_load_holds_up_nobody_else(tmp_path: Path) -> None:
    async with acting(tmp_path) as bench:
        loaded = bench.app_server.held["thread/resume"] = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(bench.act("turn/start", threadId="long"))
            while "thread/resume" not in bench.app_server.asked:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await bench.act("turn/interrupt", threadId="other", turnId="u")
            assert not slow.done()
            loaded.set()
        assert bench.app_server.asked == ["thread/resume", "turn/interrupt", "turn/start"]


async def test_of_two_messages_to_a_thread_that_is_being_loaded_one_runs(tmp_path: Path) -> None:
    async with acting(tmp_path) as bench:
        loaded = bench.app_server.held["thread/resume"] = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.act("turn/start", threadId="long"))
            while not bench.app_server.asked:  # noqa: ASYNC110
                await asyncio.sleep(0)
            second = group.create_task(bench.refused("turn/start", threadId="long"))
            await asyncio.sleep(0)
            loaded.set()
            assert await second is ErrorCode.TURN_ACTIVE
        assert bench.app_server.asked.count("turn/start") == 1


async def test_a_message_that_arrived_without_an_answer_in_time_has_its_turn(
    tmp_path: Path,
) -> None:
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start", PING}
        assert await bench.refused("turn/start", threadId="other") is ErrorCode.CODEX_TIMEOUT
        row = await bench.intent("pending")
        await bench.clock.wait_for_sleepers()
        bench.app_server.accepts(row.request_id, "u")
        bench.app_server.silent = set()
        bench.clock.advance(1.0)
        row = await bench.intent("done")
        assert row.turn_id == "u"
        assert bench.ledger.projection.memory.owner("u") == ME
        assert bench.app_server.asked.count("turn/start") == 1


async def test_a_message_that_is_not_found_stays_pending_and_its_thread_busy(
    tmp_path: Path,
) -> None:
    told = {"threadId": "other", "input": []}
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start"}
        assert await bench.refused("turn/start", "k", **told) is ErrorCode.CODEX_TIMEOUT
        for _ in range(SEARCHES):
            await bench.clock.wait_for_sleepers()
            bench.clock.advance(SEARCH_PAUSE_SECONDS)
        while bench.app_server.asked.count("thread/read") < SEARCHES:  # noqa: ASYNC110
            await asyncio.sleep(0)
        bench.app_server.silent = set()
        assert await bench.refused("turn/start", **told) is ErrorCode.TURN_ACTIVE
        assert await bench.refused("turn/start", "k", **told) is ErrorCode.CODEX_TIMEOUT
        assert (await bench.intent("pending")).settled_at is None
        assert bench.app_server.asked.count("turn/start") == 1


async def test_a_message_that_is_answered_after_it_was_searched_is_its_askers(
    tmp_path: Path,
) -> None:
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start"}
        assert await bench.refused("turn/start", threadId="other") is ErrorCode.CODEX_TIMEOUT
        await bench.clock.wait_for_sleepers()
        assert "thread/read" in bench.app_server.asked
        bench.answers((await bench.intent("pending")).request_id, "u")
        row = await bench.intent("done")
        assert (row.turn_id, row.principal) == ("u", ME.principal)
        assert bench.ledger.projection.memory.owner("u") == ME


async def test_a_message_that_was_not_written_whole_fails_and_its_key_is_free(
    tmp_path: Path,
) -> None:
    told = {"threadId": "other", "input": []}
    async with acting(tmp_path) as bench:
        bench.app_server.unread = {"turn/start"}
        assert await bench.refused("turn/start", "k", **told) is ErrorCode.CODEX_TIMEOUT
        row = await bench.intent("failed")
        assert json.loads(row.outcome or b"")["supervisor"]["code"] == "codex_timeout"
        bench.app_server.unread = set()
        assert not (await bench.act("turn/start", "k", **told)).replayed
        assert bench.app_server.asked == ["turn/start", "turn/start"]


async def test_an_answer_that_comes_late_settles_it_after_all(tmp_path: Path) -> None:
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start", PING}
        assert await bench.refused("turn/start", threadId="other") is ErrorCode.CODEX_TIMEOUT
        row = await bench.intent("pending")
        await bench.clock.wait_for_sleepers()
        bench.answers(row.request_id, "u")
        bench.clock.advance(1.0)
        assert (await bench.intent("done")).turn_id == "u"
        assert "thread/read" not in bench.app_server.asked


async def test_the_next_app_server_settles_what_this_one_ended_with(tmp_path: Path) -> None:
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start", PING}
        assert await bench.refused("turn/start", threadId="other") is ErrorCode.CODEX_TIMEOUT
        await bench.clock.wait_for_sleepers()
        bench.app_server.closed = True
        bench.clock.advance(1.0)
        while bench.app_server.asked.count(PING) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await bench.intent("pending")).settled_at is None
        assert not bench.clock.sleepers, "nobody looks any more"


async def test_a_key_whose_request_is_not_settled_in_time_is_a_timeout(tmp_path: Path) -> None:
    async with acting(tmp_path) as bench:
        bench.app_server.silent = {"turn/start", PING}
        told = {"threadId": "other", "input": []}
        assert await bench.refused("turn/start", "k", **told) is ErrorCode.CODEX_TIMEOUT
        assert await bench.refused("turn/start", "k", **told) is ErrorCode.CODEX_TIMEOUT
        assert bench.app_server.asked.count("turn/start") == 1
