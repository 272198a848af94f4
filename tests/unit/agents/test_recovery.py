"""What is done about threads and requests in doubt, by what the app-server answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from supervisor.agents.intents import intent_row
from supervisor.agents.ledger import Change, Ledger
from supervisor.agents.recovery import Recovery, resume_params, turn_with
from supervisor.agents.starting import PING
from supervisor.agents.upstream import Upstream
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.places import ProjectPaths
from supervisor.ports.store import Batch, IntentRow, ThreadRow
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.contract.stored import server_request, thread
from tests.unit.agents.making import ME, PROJECT, fold, opened, shared

Answers = Callable[[str, dict[str, Any]], object]
REFUSED = SupervisorError(ErrorCode.CODEX_REFUSED, "no rollout found")
GONE = SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server ended first")


class Scripted:
    """An upstream that answers from a script, and remembers what it was asked."""

    def __init__(self, answers: Answers) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.written: list[bytes] = []
        self.ledger: Ledger
        self._answers = answers

    async def ask(
        self,
        method: str,
        params: object,
        *,
        timeout: float,
        request_id: str | None = None,
        own: bool = False,
    ) -> msgspec.Raw:
        assert own, "recovery goes before clients"
        told = json.loads(msgspec.json.encode(params))
        self.asked.append((method, told))
        answer = self._answers(method, told)
        if isinstance(answer, SupervisorError):
            raise answer
        raw = msgspec.json.encode(answer)
        if request_id is not None:
            # As through the spool: an answer to an intent is folded in before anybody gets it.
            line = b'{"id":"%b","result":%b}' % (request_id.encode(), raw)
            fold(self.ledger.projection, line, first_n=self.ledger.next_n)
        return msgspec.Raw(raw)

    async def write(self, line: bytes) -> None:
        self.written.append(line)

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]


class Bench:
    """A ledger with a turn in doubt, and a recovery over a scripted app-server."""

    def __init__(self, ledger: Ledger, store: MemoryStore, upstream: Scripted) -> None:
        self.ledger, self.store, self.upstream = ledger, store, upstream
        self.recovery: Recovery

    async def doubt(self, method: str = "turn/start", **params: object) -> IntentRow:
        row = intent_row(
            PROJECT,
            "run-0",
            method,
            {"threadId": "t", **params},
            ME,
            meant={},
            idempotency_key=None,
            n=1,
            at=1.0,
        )
        await self.put(Batch(project=PROJECT, intents={row.request_id: row}))
        return row

    async def put(self, rows: Batch) -> None:
        await self.ledger.barrier(lambda n, at: Change(rows=rows))

    async def events(self) -> list[dict[str, Any]]:
        state = await self.store.project_state(PROJECT)
        return [json.loads(event.message) for event in state.events]

    async def settled(self) -> IntentRow:
        await self.ledger.flush()
        row = self.store._rows[PROJECT].intents["run-0"]
        assert self.ledger.projection.memory.intents == {}
        return row


async def bench(tmp_path: Path, answers: Answers, *, same_generation: bool) -> Bench:
    store, clock = MemoryStore(), Impatient()
    await store.open()
    parts = shared(tmp_path, store, clock)
    ledger = (await opened(parts)).ledger
    upstream = Scripted(answers)
    upstream.ledger = ledger
    made = Bench(ledger, store, upstream)
    made.recovery = Recovery(
        parts,
        ledger,
        cast("Upstream", upstream),
        ProjectPaths(tmp_path, tmp_path),
        trusted=False,
        same_generation=same_generation,
    )
    return made


class Impatient(FakeClock):
    """Time that passes as soon as somebody waits for it."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


def read_with(client_id: str | None, turn: str = "u") -> object:
    items = [{"type": "userMessage", "id": "i", "clientId": client_id}]
    return {"thread": {"id": "t", "turns": [{"id": turn, "items": items}]}}


def history(read: object, **others: object) -> Answers:
    """The answers of an app-server whose thread/read says `read`."""
    script = {PING: {"data": []}, "thread/read": read, **others}
    return lambda method, params: script[method]


async def test_a_message_that_is_there_is_not_sent_again(tmp_path: Path) -> None:
    made = await bench(tmp_path, history(read_with("run-0")), same_generation=True)
    await made.doubt()
    await made.recovery.run([])
    row = await made.settled()
    assert (row.state, row.turn_id) == ("done", "u")
    assert "turn/start" not in made.upstream.methods
    assert made.ledger.projection.memory.owner("u") == ME


async def test_a_message_that_is_nowhere_is_sent_again_once_with_its_own_id(tmp_path: Path) -> None:
    answers = history(read_with(None), **{"turn/start": {"turn": {"id": "new"}}})
    made = await bench(tmp_path, answers, same_generation=True)
    row = await made.doubt()
    await made.recovery.run([])
    assert (await made.settled()).turn_id == "new"
    assert made.upstream.methods == [PING, "thread/read", PING, "thread/read", "turn/start"]
    assert made.upstream.asked[-1][1] == json.loads(row.params)


async def test_a_message_that_appears_on_the_second_look_is_not_sent_again(tmp_path: Path) -> None:
    reads = iter([read_with(None), read_with("run-0")])

    def answers(method: str, params: dict[str, Any]) -> object:
        return next(reads) if method == "thread/read" else {"data": []}

    made = await bench(tmp_path, answers, same_generation=True)
    await made.doubt()
    await made.recovery.run([])
    assert (await made.settled()).turn_id == "u"
    assert "turn/start" not in made.upstream.methods


async def test_an_answer_that_stands_in_the_spool_ends_the_doubt(tmp_path: Path) -> None:
    made = await bench(tmp_path, lambda method, params: told(method), same_generation=True)

    def told(method: str) -> object:
        if method == PING:  # what was answered before the ping has been read by now
            line = b'{"id":"run-0","result":{"turn":{"id":"early"}}}'
            fold(made.ledger.projection, line, first_n=made.ledger.next_n)
        return {"data": []}

    await made.doubt()
    await made.recovery.run([])
    assert (await made.settled()).turn_id == "early"
    assert made.upstream.methods == [PING]


async def test_a_message_lost_with_its_app_server_fails_and_is_told(tmp_path: Path) -> None:
    made = await bench(tmp_path, history(REFUSED), same_generation=False)
    await made.doubt()
    await made.recovery.run([])
    row = await made.settled()
    assert row.state == "failed"
    assert json.loads(row.outcome or b"")["supervisor"]["code"] == "agent_restarted"
    [event] = [e for e in await made.events() if e["method"] == "supervisor/requestFailed"]
    assert (event["params"]["requestId"], event["params"]["threadId"]) == ("run-0", "t")


async def test_a_turn_that_ran_in_a_dead_app_server_was_interrupted(tmp_path: Path) -> None:
    made = await bench(tmp_path, history(read_with("run-0")), same_generation=False)
    await made.doubt()
    await made.recovery.run([])
    assert (await made.settled()).state == "done"
    [turn] = await made.store.turns(PROJECT, "t", 9)
    assert (turn.turn_id, turn.state, turn.request_id) == ("u", "interrupted", "run-0")
    [event] = [e for e in await made.events() if e["method"] == "turn/completed"]
    assert event["params"]["synthesised"]
    assert made.ledger.projection.memory.turns == {}


@pytest.mark.parametrize("method", ["thread/name/set", "thread/archive", "thread/resume"])
async def test_what_done_twice_is_done_once_is_sent_again(method: str, tmp_path: Path) -> None:
    made = await bench(tmp_path, history(None, **{method: {}}), same_generation=True)
    await made.doubt(method)
    await made.recovery.run([])
    assert (await made.settled()).state == "done"
    assert made.upstream.methods == [method]


async def test_an_interrupt_in_doubt_fails(tmp_path: Path) -> None:
    made = await bench(tmp_path, history(None), same_generation=True)
    await made.doubt("turn/interrupt", turnId="u")
    await made.recovery.run([])
    assert (await made.settled()).state == "failed"
    assert made.upstream.asked == []


async def test_a_refusal_of_what_is_sent_again_is_its_outcome(tmp_path: Path) -> None:
    made = await bench(tmp_path, lambda method, params: answers(method), same_generation=True)

    def answers(method: str) -> object:
        if method == "turn/start":
            line = b'{"id":"run-0","error":{"code":-32600,"message":"thread not found"}}'
            fold(made.ledger.projection, line, first_n=made.ledger.next_n)
            return REFUSED
        return {"data": [], "thread": {"turns": []}}

    await made.doubt()
    await made.recovery.run([])
    assert (await made.settled()).state == "failed"


async def test_answers_that_were_committed_are_written_again_and_no_others(tmp_path: Path) -> None:
    made = await bench(tmp_path, history(None), same_generation=True)
    rows = [
        server_request("1-0", PROJECT, request_id=b"0", state="waiting", answer=None),
        server_request("1-1", PROJECT, request_id=b'"1"', state="answered", answer=b'{"a":1}'),
    ]
    await made.put(Batch(project=PROJECT, server_requests={r.approval_id: r for r in rows}))
    await made.recovery.run([])
    assert made.upstream.written == [b'{"id":"1","result":{"a":1}}\n']


def row(thread_id: str, tmp_path: Path, **given: object) -> ThreadRow:
    return thread(thread_id, PROJECT, cwd=str(tmp_path), **given)


async def test_threads_are_resumed_or_told_to_be_lost(tmp_path: Path) -> None:
    def answers(method: str, params: dict[str, Any]) -> object:
        assert method == "thread/resume"
        return REFUSED if params["threadId"] == "broken" else {"thread": {"id": "x"}}

    made = await bench(tmp_path, answers, same_generation=False)
    rows = [
        row("good", tmp_path),
        row("broken", tmp_path),
        row("empty", tmp_path, has_turns=False),
    ]
    await made.put(Batch(project=PROJECT, threads={r.thread_id: r for r in rows}))
    await made.recovery.run(rows)
    statuses = {r.thread_id: r.status for r in made.ledger.projection.memory.threads.values()}
    assert statuses == {"good": "idle", "broken": "not_loaded", "empty": "lost"}
    told = {e["params"]["threadId"]: e for e in await made.events() if "thread" in e["method"]}
    assert told["good"]["method"] == "supervisor/threadResumed"
    assert told["broken"]["params"]["reason"] == REFUSED.message
    assert {told[name]["method"] for name in ("broken", "empty")} == {"supervisor/threadLost"}


async def test_an_app_server_that_ends_meanwhile_says_nothing_of_its_threads(
    tmp_path: Path,
) -> None:
    made = await bench(tmp_path, lambda method, params: GONE, same_generation=False)
    one = row("t", tmp_path, status="idle")
    await made.put(Batch(project=PROJECT, threads={"t": one}))
    await made.recovery.run([one])
    assert made.ledger.projection.memory.threads["t"].status == "idle"


def test_a_thread_is_resumed_with_its_settings_and_never_with_its_old_trust(tmp_path: Path) -> None:
    kept = {"model": "m", "config": {"model_reasoning_effort": "low", "projects": {"/": "trusted"}}}
    one = row("t", tmp_path, settings=msgspec.json.encode(kept))
    params = resume_params(one, ProjectPaths(tmp_path, tmp_path), trusted=False)
    assert (params["threadId"], params["model"], params["excludeTurns"]) == ("t", "m", True)
    config = params["config"]
    assert isinstance(config, dict)
    assert config["model_reasoning_effort"] == "low"
    assert list(config["projects"]) == [str(tmp_path)]
    assert config["projects"][str(tmp_path)] == {"trust_level": "untrusted"}


@pytest.mark.parametrize("read", [None, {}, {"thread": 5}, {"thread": {"turns": [{"items": 5}]}}])
def test_a_read_in_another_shape_holds_no_message(read: object) -> None:
    assert turn_with(msgspec.Raw(msgspec.json.encode(read)), "run-0") is None


def test_a_sandbox_that_is_forbidden_by_now_is_left_out(tmp_path: Path) -> None:
    kept = msgspec.json.encode({"sandbox": "danger-full-access", "approvalPolicy": "never"})
    one, paths = row("t", tmp_path, settings=kept), ProjectPaths(tmp_path, tmp_path)
    assert resume_params(one, paths, trusted=False)["sandbox"] == "danger-full-access"
    walled = resume_params(one, paths, trusted=False, forbidden=frozenset({"danger-full-access"}))
    assert "sandbox" not in walled
    assert walled["approvalPolicy"] == "never"


def test_a_thread_of_another_mount_point_works_in_the_project_of_today(tmp_path: Path) -> None:
    kept = msgspec.json.encode({"cwd": "/elsewhere/sub"})
    paths = ProjectPaths(tmp_path, Path("/work"))
    one = row("t", Path("/elsewhere"), settings=kept)
    assert resume_params(one, paths, trusted=False)["cwd"] == "/work"
