"""What the kinds of audit records say."""

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import record, reported
from supervisor.audit.record import TEXT_LIMIT, Draft, Kind, Phase
from supervisor.audit.reported import CHANGES_LIMIT
from supervisor.policy.access import Principal
from tests.contract.stored import generation, intent, server_request

WHO = Principal(account="acme", principal="ann", source="10.0.0.7", client="tui")


class Seen(msgspec.Struct, frozen=True):
    """An item, as the protocol's parser would give it."""

    id: str
    kind: str
    body: bytes


def detail(draft: Draft) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(draft.detail)
    assert list(found) == sorted(found)
    return found


def seen(item: dict[str, object]) -> Seen:
    return Seen(str(item["id"]), str(item["type"]), msgspec.json.encode(item))


def test_a_record_names_who_asked() -> None:
    made = record.project_opened(WHO, "/srv/code")
    assert (made.account, made.principal, made.source, made.client) == (
        "acme",
        "ann",
        "10.0.0.7",
        "tui",
    )


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("turn/start", "turn.submitted"),
        ("turn/steer", "turn.steered"),
        ("turn/interrupt", "turn.interrupt_requested"),
        ("thread/start", "thread.started"),
        ("thread/resume", "thread.resumed"),
        ("thread/name/set", "thread.named"),
        ("thread/archive", "thread.archived"),
        ("thread/compact/start", "request.made"),
    ],
)
def test_a_request_that_acts_has_an_intent_and_an_outcome(method: str, kind: str) -> None:
    row = intent("r-1", method=method, thread_id="t1", turn_id="u1", idempotency_key="k")
    before = record.intent_made(WHO, row)
    after = record.intent_settled(
        WHO, msgspec.structs.replace(row, state="failed", outcome=b'{"message":"no"}')
    )

    assert (before.kind, before.phase) == (kind, "intent")
    assert (after.kind, after.phase) == (kind, "outcome")
    assert (before.thread_id, before.turn_id) == ("t1", "u1")
    assert detail(before) == {
        "method": method,
        "request_id": "r-1",
        "params_sha256": row.params_hash,
        "idempotency_key": "k",
    }
    assert detail(after) == {
        "method": method,
        "request_id": "r-1",
        "state": "failed",
        "error": '{"message":"no"}',
    }


def test_a_result_is_not_copied_into_the_audit() -> None:
    row = intent("r-1", state="done", outcome=b'{"thread":{"preview":"private"}}')
    assert detail(record.intent_settled(WHO, row))["error"] is None


def test_a_command_says_what_ran_where_and_how_it_ended() -> None:
    item: dict[str, object] = {
        "type": "commandExecution",
        "id": "call_1",
        "command": "/bin/bash -lc 'make'",
        "cwd": "/srv/code",
        "source": "agent",
        "status": "completed",
        "aggregatedOutput": "a password\n",
        "exitCode": 2,
        "durationMs": 2855,
    }
    (made,) = reported.item_drafts(WHO, seen(item), Phase.OUTCOME)

    assert (made.kind, made.phase, made.item_id) == ("command.run", "outcome", "call_1")
    assert detail(made) == {
        "command": "/bin/bash -lc 'make'",
        "cwd": "/srv/code",
        "exit_code": 2,
        "duration_ms": 2855,
        "source": "agent",
        "status": "completed",
    }


def test_a_patch_has_a_record_a_file_with_the_hash_of_its_diff_and_not_its_text() -> None:
    item: dict[str, object] = {
        "type": "fileChange",
        "id": "call_2",
        "status": "declined",
        "changes": [
            {"path": "/srv/a", "kind": {"type": "add"}, "diff": "é\n"},
            {"path": "/srv/b", "kind": {"type": "update", "move_path": None}, "diff": "x"},
        ],
    }
    first, second = reported.item_drafts(WHO, seen(item), Phase.INTENT)

    assert (first.kind, first.phase) == ("file.changed", "intent")
    assert detail(first) == {
        "path": "/srv/a",
        "moved_to": None,
        "kind": "add",
        "diff_bytes": 3,
        "diff_sha256": sha256("é\n".encode()).hexdigest(),
        "status": "declined",
    }
    assert (detail(second)["path"], detail(second)["kind"]) == ("/srv/b", "update")


def test_a_patch_of_endlessly_many_files_is_bounded_and_says_so() -> None:
    changes = [{"path": f"/f{n}", "diff": ""} for n in range(CHANGES_LIMIT + 25)]
    item: dict[str, object] = {"type": "fileChange", "id": "c", "changes": changes}
    made = reported.item_drafts(WHO, seen(item), Phase.OUTCOME)

    assert len(made) == CHANGES_LIMIT + 1
    assert detail(made[-1])["more"] == 25


@pytest.mark.parametrize("kind", ["agentMessage", "reasoning", "userMessage", "", "mcpToolCall"])
def test_items_that_do_nothing_to_the_project_leave_no_record(kind: str) -> None:
    assert reported.item_drafts(WHO, Seen("i", kind, b"{}"), Phase.OUTCOME) == []


@pytest.mark.parametrize("kind", ["commandExecution", "fileChange"])
@given(body=st.binary(max_size=40) | st.just(b'{"command":7,"changes":"no"}'))
def test_an_unreadable_item_leaves_a_record_and_never_an_error(kind: str, body: bytes) -> None:
    for made in reported.item_drafts(WHO, Seen("i", kind, body), Phase.OUTCOME):
        assert made.item_id == "i"
        assert isinstance(detail(made), dict)


def test_an_approval_is_followed_from_the_question_to_its_end() -> None:
    row = server_request(
        "1-0", params=b'{"command":"rm -r /","cwd":"/srv","reason":null,"kind":"command"}'
    )
    asked = record.approval_asked(WHO, row)
    answered_row = msgspec.structs.replace(row, answer=b'{"decision":"accept"}', answered_by="ann")
    answered = record.approval_answered(WHO, answered_row)
    settled = record.approval_settled(WHO, answered_row, "resolved")

    assert [one.kind for one in (asked, answered, settled)] == [
        "approval.asked",
        "approval.answered",
        "approval.settled",
    ]
    assert [one.phase for one in (asked, answered, settled)] == ["fact", "intent", "outcome"]
    assert {(one.turn_id, one.item_id) for one in (asked, answered, settled)} == {("u1", "i1")}
    assert detail(asked)["command"] == "rm -r /"
    assert "reason" not in detail(asked)
    assert detail(answered)["decision"] == "accept"
    assert detail(settled)["state"] == "resolved"
    assert detail(settled)["answered_by"] == "ann"


@pytest.mark.parametrize("answer", [b'{"answers":{}}', b"[]", b'{"decision":{"x":{}}}', b"\xff"])
def test_an_answer_that_is_no_decision_is_known_by_its_hash(answer: bytes) -> None:
    made = record.approval_answered(WHO, server_request("1-0", answer=answer))
    assert detail(made)["decision"] is None
    assert detail(made)["answer_sha256"] == sha256(answer).hexdigest()


def test_an_agent_is_followed_from_its_start_to_its_end() -> None:
    row = generation(3, pid=77, exit_kind="signal", exit_detail="9")
    made = [
        record.agent_starting(WHO, row, trusted=False),
        record.agent_started(WHO, row),
        record.agent_adopted(WHO, row),
        record.agent_exited(WHO, row, asked=False),
    ]

    assert [(one.kind, one.phase) for one in made] == [
        ("agent.started", "intent"),
        ("agent.started", "outcome"),
        ("agent.adopted", "fact"),
        ("agent.exited", "fact"),
    ]
    assert {one.generation for one in made} == {3}
    assert detail(made[0])["trusted"] is False
    assert detail(made[1])["pid"] == 77
    assert detail(made[3]) == {"exit_kind": "signal", "exit_detail": "9", "asked": False}


def test_trust_given_and_taken_back_are_two_kinds() -> None:
    assert record.project_trusted(WHO, "/srv", trusted=True).kind is Kind.PROJECT_TRUSTED
    assert record.project_trusted(WHO, "/srv", trusted=False).kind is Kind.PROJECT_UNTRUSTED
    assert record.project_stopped(WHO).kind is Kind.PROJECT_STOPPED
    assert record.project_restarted(WHO).kind is Kind.PROJECT_RESTARTED


def test_a_command_in_the_container_is_one_thing_with_two_records() -> None:
    begun = record.exec_begun(WHO, "run-1", "ls 'a b'", "/srv", tty=True)
    ended = record.exec_ended(WHO, "run-1", 137, 12)
    assert (begun.kind, begun.phase) == ("container.exec", "intent")
    assert (ended.kind, ended.phase) == ("container.exec", "outcome")
    assert detail(begun) == {"exec_id": "run-1", "command": "ls 'a b'", "cwd": "/srv", "tty": True}
    assert detail(ended) == {"exec_id": "run-1", "exit_code": 137, "duration_ms": 12}


def test_an_end_we_made_up_says_so() -> None:
    made = record.turn_ended(WHO, "interrupted", synthesised=True)
    assert detail(made) == {"state": "interrupted", "synthesised": True}


def test_a_long_text_is_cut_and_can_still_be_proved() -> None:
    command = "é" * (TEXT_LIMIT + 1)
    made = record.draft(Kind.COMMAND_RUN, Phase.FACT, WHO, {"command": command})
    said = detail(made)["command"]

    assert said["cut"] == "é" * TEXT_LIMIT
    assert said["bytes"] == 2 * (TEXT_LIMIT + 1)
    assert said["sha256"] == sha256(command.encode()).hexdigest()


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_can_be_recorded(text: str) -> None:
    made = record.draft(Kind.COMMAND_RUN, Phase.FACT, WHO, {"command": text})
    assert isinstance(detail(made)["command"], str)
