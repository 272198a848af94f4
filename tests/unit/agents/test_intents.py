"""The row of a request that acts, and what its answer makes of it."""

import json

import msgspec
import pytest

from supervisor.agents.intents import asker, intent_row, outcome_of, params_hash
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import IntentRow, ThreadRow
from tests.contract.stored import thread
from tests.unit.agents.making import ME, PROJECT


def made(method: str = "turn/start", **params: object) -> IntentRow:
    return intent_row(
        PROJECT, "run-1", method, params, ME, meant=params, idempotency_key="k", n=7, at=3.0
    )


def settled(
    row: IntentRow, result: object, known: ThreadRow | None = None
) -> tuple[IntentRow, ThreadRow | None]:
    line = msgspec.json.encode({"id": row.request_id, "result": result})
    outcome = outcome_of(row, line, failed=False, at=9.0, known=known)
    return outcome.intent, outcome.thread


def test_a_key_stands_for_the_request_whatever_the_order_of_its_fields() -> None:
    one = params_hash("turn/start", {"a": 1, "b": {"x": 1, "y": 2}})
    assert one == params_hash("turn/start", {"b": {"y": 2, "x": 1}, "a": 1})
    assert one != params_hash("turn/steer", {"a": 1, "b": {"x": 1, "y": 2}})
    assert one != params_hash("turn/start", {"a": 1, "b": {"x": 1, "y": 3}})


@pytest.mark.parametrize("method", ["turn/start", "turn/steer"])
def test_a_message_carries_its_request_id_and_the_key_does_not_stand_for_that(method: str) -> None:
    row = made(method, threadId="t")
    assert json.loads(row.params)["clientUserMessageId"] == "run-1"
    assert row.params_hash == params_hash(method, {"threadId": "t"})


@pytest.mark.parametrize("method", ["thread/start", "turn/interrupt", "thread/archive"])
def test_other_requests_go_as_they_were_meant(method: str) -> None:
    assert json.loads(made(method, threadId="t", turnId="u").params) == {
        "threadId": "t",
        "turnId": "u",
    }


def test_the_row_says_who_asked_and_about_what() -> None:
    row = made("turn/steer", threadId="t", expectedTurnId="u")
    assert asker(row) == ME
    assert (row.thread_id, row.turn_id, row.state, row.n) == ("t", "u", "pending", 7)


def test_ids_that_are_no_text_are_nobodys() -> None:
    row = made("turn/interrupt", threadId=5, turnId=["u"])
    assert (row.thread_id, row.turn_id) == (None, None)


@pytest.mark.parametrize("text", ["\ud800", {"a": {1, 2}, "b": object()}])
def test_params_that_cannot_be_written_are_refused(text: object) -> None:
    with pytest.raises(SupervisorError) as caught:
        made(threadId="t", text=text)
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_a_started_turn_is_named_by_its_answer() -> None:
    row, _ = settled(made(threadId="t"), {"turn": {"id": "u"}})
    assert (row.state, row.turn_id, row.settled_at) == ("done", "u", 9.0)


def test_a_started_thread_keeps_what_it_needs_to_be_resumed() -> None:
    row = made("thread/start", cwd="/p/sub", sandbox="read-only", dynamicTools=[], config={"a": 1})
    _, started = settled(row, {"thread": {"id": "t", "cwd": "/p/sub"}})
    assert started is not None
    assert (started.thread_id, started.status, started.has_turns) == ("t", "idle", False)
    assert json.loads(started.settings) == {
        "cwd": "/p/sub",
        "sandbox": "read-only",
        "config": {"a": 1},
    }


@pytest.mark.parametrize("status", ["not_loaded", "lost", "archived"])
def test_a_resumed_thread_is_idle_again_and_its_whole_answer_is_not_kept(status: str) -> None:
    row = made("thread/resume", threadId="t")
    answer = {"thread": {"id": "t", "turns": ["x" * 1000]}}
    intent, resumed = settled(row, answer, thread("t", PROJECT, status=status))
    assert resumed is not None
    assert resumed.status == "idle"
    assert json.loads(intent.outcome or b"") == {"thread": {"id": "t"}}


def test_resuming_what_is_busy_changes_nothing() -> None:
    row = made("thread/resume", threadId="t")
    assert settled(row, {"thread": {"id": "t"}}, thread("t", status="active"))[1] is None


def test_an_archived_thread_is_put_away() -> None:
    known = thread("t", PROJECT, status="idle")
    _, archived = settled(made("thread/archive", threadId="t"), {}, known)
    assert archived is not None
    assert archived.status == "archived"


@pytest.mark.parametrize("error", [None, 5, {}, {"code": "x", "message": 7}, {"message": "no"}])
def test_any_error_settles_the_request_as_failed(error: object) -> None:
    line = msgspec.json.encode({"id": "run-1", "error": error})
    row = outcome_of(made(threadId="t"), line, failed=True, at=9.0, known=None).intent
    assert row.state == "failed"
    assert isinstance(json.loads(row.outcome or b"")["code"], int)
