"""Audit records as a table: every kind of record says what it is about."""

import msgspec
import pytest
from msgspec.structs import replace

from supervisor.audit import record, reported
from supervisor.audit.record import Draft, Phase
from supervisor.cli.audit import COLUMNS, rows, what
from supervisor.ids import Generation, ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.store import ServerRequestRow

REQUEST = ServerRequestRow(
    project=ProjectId("p"),
    approval_id="1-0",
    generation=Generation(1),
    request_id=b"0",
    method="item/fileChange/requestApproval",
    thread_id="t",
    turn_id="u",
    item_id="i",
    params=b"{}",
    state="waiting",
    asked_n=1,
    asked_at=0.0,
)
WHO = Principal(account="a", principal="alice", source="unix:uid=1", client="c")


def detail(draft: Draft) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(draft.detail)
    return found


def test_command_is_shown_with_how_it_ended() -> None:
    draft = reported.command_run(
        WHO,
        Phase.OUTCOME,
        command="make\ttest",
        cwd="/p",
        exit_code=0,
        duration_ms=0,
        source="agent",
    )

    assert what(detail(draft)) == "make test, exit 0, 0 ms"


def test_file_is_shown_with_the_size_of_its_change() -> None:
    draft = reported.file_changed(WHO, Phase.OUTCOME, path="/p/a", kind="update", diff="+1")

    assert what(detail(draft)) == "/p/a, update, 2 bytes of diff"


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (record.project_opened(WHO, "/p"), "/p"),
        (record.project_stopped(WHO), ""),
        (record.approval_asked(WHO, REQUEST), "item/fileChange/requestApproval"),
        (
            record.approval_answered(WHO, replace(REQUEST, answer=b'{"decision":"accept"}')),
            "accept",
        ),
        (record.turn_ended(WHO, "interrupted", synthesised=True), "interrupted"),
    ],
)
def test_other_records_are_shown_by_what_they_have(draft: Draft, words: str) -> None:
    assert what(detail(draft)) == words


def test_row_says_who_and_when_and_shortens_ids_at_their_front() -> None:
    thread = "01a1f8df-ef22-74d1-a7d8-51fc27e4b679"
    (row,) = rows(
        [
            {
                "seq": 7,
                "at": 0.0,
                "account": "a",
                "principal": "alice",
                "source": "unix:uid=1",
                "threadId": thread,
                "turnId": None,
                "kind": "turn.ended",
                "phase": "fact",
                "detail": {"state": "completed"},
            }
        ]
    )

    assert len(row) == len(COLUMNS)
    assert row == (
        7,
        "1970-01-01 00:00:00",
        "a/alice unix:uid=1",
        "27e4b679",
        "turn.ended fact",
        "completed",
    )
