"""What was begun and never reported to its end has an outcome in the audit all the same."""

import json
from typing import Any

import msgspec
import pytest

from supervisor.agents.ending import Ended, ending
from supervisor.agents.projection import Projection
from supervisor.audit.record import Draft
from supervisor.ids import Generation
from supervisor.lifecycle.restart import ExitKind
from supervisor.ports.store import AuditRow
from tests.contract.stored import generation
from tests.unit.agents.making import ME, PROJECT, fold, line, projection

TURN = {"threadId": "t", "turnId": "u"}
STARTED = line("turn/started", threadId="t", turn={"id": "u"})
COMMAND = {"type": "commandExecution", "command": "make", "cwd": "/p", "status": "inProgress"}
PATCH = {
    "type": "fileChange",
    "status": "inProgress",
    "changes": [{"path": "/p/a", "kind": {"type": "update", "move_path": "/p/b"}, "diff": "x"}],
}


def item(moment: str, item_id: str, body: dict[str, Any], **more: object) -> bytes:
    return line(f"item/{moment}", **TURN, item={**body, "id": item_id, **more})


def ended_turn(status: str) -> bytes:
    return line("turn/completed", threadId="t", turn={"id": "u", "status": status})


def begun() -> Projection:
    """A command and a patch of somebody's turn, under way."""
    made = projection()
    made.memory.remember_owner("u", ME)
    fold(made, STARTED, item("started", "c", COMMAND), item("started", "p", PATCH))
    return made


def outcomes(of: list[AuditRow] | list[Draft]) -> list[tuple[str, str, str | None, str]]:
    """Item, account, turn and status of each outcome of an item."""
    rows = [r for r in of if r.phase == "outcome" and r.item_id]
    return [(r.item_id or "", r.account, r.turn_id, json.loads(r.detail)["status"]) for r in rows]


def app_server_ended(of: Projection) -> list[Draft]:
    row = generation(1, PROJECT)
    ended = Ended(generation=row, kind=ExitKind.KILLED, detail="", final_size=0)
    return ending(of.memory, ended, 9, 9.0).drafts


CUT = [("c", ME.account, "u", "cut_off"), ("p", ME.account, "u", "cut_off")]


def test_an_interrupted_turn_cuts_off_what_it_was_doing() -> None:
    made = begun()
    fold(made, ended_turn("interrupted"), first_n=4)
    assert outcomes(made.batch.audit) == CUT
    assert {row.n for row in made.batch.audit if row.phase == "outcome"} == {4}


def test_the_end_of_the_app_server_cuts_off_what_it_was_doing() -> None:
    assert outcomes(app_server_ended(begun())) == CUT


def test_a_background_command_is_cut_off_by_the_app_servers_end_and_not_by_its_turns() -> None:
    made = begun()
    fold(made, item("completed", "p", PATCH, status="completed"), ended_turn("completed"))
    assert outcomes(made.batch.audit) == [("p", ME.account, "u", "completed")]
    assert outcomes(app_server_ended(made)) == CUT[:1]


def test_what_was_reported_to_its_end_is_not_cut_off() -> None:
    made = begun()
    fold(made, item("completed", "c", COMMAND, status="completed", exitCode=0))
    fold(made, item("completed", "p", PATCH, status="completed"), ended_turn("interrupted"))
    assert [status for *_, status in outcomes(made.batch.audit)] == ["completed", "completed"]
    assert outcomes(app_server_ended(made)) == []


@pytest.mark.parametrize("phase", ["intent", "outcome"])
def test_a_rename_says_from_where_and_whereto(phase: str) -> None:
    made = begun()
    fold(made, ended_turn("interrupted"), first_n=4)
    (row,) = [r for r in made.batch.audit if r.item_id == "p" and r.phase == phase]
    detail = msgspec.json.decode(row.detail, type=dict[str, object])
    assert (detail["path"], detail["moved_to"]) == ("/p/a", "/p/b")
    assert row.generation == Generation(1)
