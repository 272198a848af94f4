"""Rows to store, with everything filled in that a test does not care about."""

from typing import Any

from supervisor.ids import Epoch, Generation, ProjectId
from supervisor.ports.store import (
    AuditRow,
    CheckpointRow,
    EventRow,
    GenerationRow,
    IntentRow,
    ItemRow,
    ProjectRow,
    ServerRequestRow,
    ThreadRow,
    TurnRow,
)

A = ProjectId("project-a")
B = ProjectId("project-b")


def project_row(project: ProjectId = A, **given: Any) -> ProjectRow:
    row: dict[str, Any] = {
        "project": project,
        "path": "/srv/code",
        "account": "local",
        "trusted": False,
        "desired": "running",
        "created_at": 1.25,
    }
    return ProjectRow(**(row | given))


def checkpoint(project: ProjectId = A, **given: Any) -> CheckpointRow:
    row: dict[str, Any] = {
        "project": project,
        "epoch": Epoch("e1"),
        "next_n": 10,
        "generation": Generation(2),
        "offset": 4096,
        "window_n": 4,
        "window_generation": Generation(2),
        "window_offset": 1024,
        "audit_seq": 3,
        "audit_hash": "ab" * 32,
        "host": "here",
        "boot_id": "boot-1",
    }
    return CheckpointRow(**(row | given))


def generation(number: int, project: ProjectId = A, **given: Any) -> GenerationRow:
    row: dict[str, Any] = {
        "project": project,
        "generation": Generation(number),
        "state": "running",
        "runtime": "host",
        "marker": f"{project}-{number}",
        "first_n": 1,
        "started_at": 100.5,
    }
    return GenerationRow(**(row | given))


def event(n: int, project: ProjectId = A, **given: Any) -> EventRow:
    row: dict[str, Any] = {
        "project": project,
        "n": n,
        "generation": Generation(1),
        "offset": 10 * n,
        "thread_id": None,
        "message": b'{"method":"agent/restarted","params":{}}',
        "at": 100.0 + n,
    }
    return EventRow(**(row | given))


def thread(thread_id: str, project: ProjectId = A, **given: Any) -> ThreadRow:
    row: dict[str, Any] = {
        "project": project,
        "thread_id": thread_id,
        "account": "local",
        "status": "idle",
        "cwd": "/srv/code",
        "name": None,
        "settings": b"{}",
        "has_turns": True,
        "created_at": 1.0,
        "updated_at": 2.0,
    }
    return ThreadRow(**(row | given))


def intent(request_id: str, project: ProjectId = A, **given: Any) -> IntentRow:
    row: dict[str, Any] = {
        "project": project,
        "request_id": request_id,
        "method": "turn/start",
        "thread_id": "t1",
        "turn_id": None,
        "idempotency_key": None,
        "params_hash": "cd" * 32,
        "params": b'{"threadId":"t1"}',
        "state": "pending",
        "outcome": None,
        "account": "local",
        "principal": "me",
        "source": "unix:uid=0",
        "client": "test",
        "n": 1,
        "created_at": 3.5,
    }
    return IntentRow(**(row | given))


def turn(turn_id: str, project: ProjectId = A, **given: Any) -> TurnRow:
    row: dict[str, Any] = {
        "project": project,
        "thread_id": "t1",
        "turn_id": turn_id,
        "state": "in_progress",
        "generation": Generation(1),
        "request_id": None,
        "error": None,
        "started_n": 1,
        "ended_n": None,
        "started_at": 4.0,
        "ended_at": None,
    }
    return TurnRow(**(row | given))


def item(item_id: str, project: ProjectId = A, **given: Any) -> ItemRow:
    row: dict[str, Any] = {
        "project": project,
        "thread_id": "t1",
        "turn_id": "u1",
        "item_id": item_id,
        "kind": "agentMessage",
        "state": "open",
        "body": b'{"text":""}',
        "started_n": 1,
        "completed_n": None,
    }
    return ItemRow(**(row | given))


def server_request(approval_id: str, project: ProjectId = A, **given: Any) -> ServerRequestRow:
    row: dict[str, Any] = {
        "project": project,
        "approval_id": approval_id,
        "generation": Generation(1),
        "request_id": b"0",
        "method": "item/commandExecution/requestApproval",
        "thread_id": "t1",
        "turn_id": "u1",
        "item_id": "i1",
        "params": b"{}",
        "state": "waiting",
        "asked_n": 1,
        "asked_at": 5.0,
    }
    return ServerRequestRow(**(row | given))


def audit(seq: int, project: ProjectId = A, **given: Any) -> AuditRow:
    row: dict[str, Any] = {
        "project": project,
        "seq": seq,
        "at": 6.0,
        "kind": "command.run",
        "phase": "outcome",
        "account": "local",
        "principal": "me",
        "source": "unix:uid=0",
        "client": "test",
        "host": "here",
        "generation": Generation(1),
        "n": seq,
        "thread_id": "t1",
        "turn_id": "u1",
        "item_id": "i1",
        "detail": b'{"command":"ls"}',
        "hash": f"{seq:064x}",
    }
    return AuditRow(**(row | given))


def turns(*rows: TurnRow) -> dict[tuple[str, str], TurnRow]:
    return {(row.thread_id, row.turn_id): row for row in rows}


def items(*rows: ItemRow) -> dict[tuple[str, str, str], ItemRow]:
    return {(row.thread_id, row.turn_id, row.item_id): row for row in rows}


def intents(*rows: IntentRow) -> dict[str, IntentRow]:
    return {row.request_id: row for row in rows}
