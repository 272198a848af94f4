"""Requests that act: the row committed before one is written, and what its answer means."""

import hashlib
from typing import Literal

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.store import IntentRow, ThreadRow
from supervisor.protocol import jsonrpc

ACTS = {
    "thread/start",
    "thread/resume",
    "thread/name/set",
    "thread/archive",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
}
"""What `Agent.act` carries."""

CARRIES_MESSAGE_ID = {"turn/start", "turn/steer"}
"""Methods whose `clientUserMessageId` finds them again among a thread's items (D10)."""

_THREAD_SETTINGS = (
    "model",
    "cwd",
    "sandbox",
    "approvalPolicy",
    "developerInstructions",
    "config",
)
"""What a thread is started with and thread/resume takes again."""


class _Id(msgspec.Struct):
    id: str = ""
    cwd: str = ""
    name: str | None = None


class _Result(msgspec.Struct):
    thread: _Id | None = None
    turn: _Id | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What an answer settles: the intent, and what it brought about."""

    intent: IntentRow
    thread: ThreadRow | None

    @property
    def starts_turn(self) -> bool:
        """Whether a turn runs now because of it."""
        done = self.intent.state == "done"
        return done and self.intent.method == "turn/start" and bool(self.intent.turn_id)


def params_hash(method: str, params: dict[str, object]) -> str:
    """What an idempotency key stands for: sha256 hex of the method and its params."""
    return hashlib.sha256(_encode([method, params], order="sorted")).hexdigest()


def intent_row(
    project: ProjectId,
    request_id: str,
    method: str,
    params: dict[str, object],
    principal: Principal,
    *,
    meant: dict[str, object],
    idempotency_key: str | None,
    n: int,
    at: float,
) -> IntentRow:
    """The row of a request about to be written. `params` go upstream, the id with them; `meant` is
    what the client said, which an idempotency key stands for."""
    if method in CARRIES_MESSAGE_ID:
        params = {**params, "clientUserMessageId": request_id}
    return IntentRow(
        project=project,
        request_id=request_id,
        method=method,
        thread_id=_str(params.get("threadId")),
        turn_id=_str(params.get("turnId") or params.get("expectedTurnId")),
        idempotency_key=idempotency_key,
        params_hash=params_hash(method, meant),
        params=_encode(params),
        state="pending",
        outcome=None,
        account=principal.account,
        principal=principal.principal,
        source=principal.source,
        client=principal.client,
        n=n,
        created_at=at,
    )


def _encode(value: object, order: Literal["sorted"] | None = None) -> bytes:
    try:
        return msgspec.json.encode(value, order=order)
    except (UnicodeEncodeError, msgspec.MsgspecError, TypeError) as e:
        raise SupervisorError(ErrorCode.BAD_REQUEST, f"params cannot be sent: {e}") from None


def _str(value: object) -> str | None:
    return value if isinstance(value, str) else None


def asker(intent: IntentRow) -> Principal:
    """Who asked for it."""
    return Principal(
        account=intent.account,
        principal=intent.principal,
        source=intent.source,
        client=intent.client,
    )


def outcome_of(
    intent: IntentRow, line: bytes, *, failed: bool, at: float, known: ThreadRow | None
) -> Outcome:
    """Read the app-server's answer to an intent. Lenient: the answer is a claim."""
    if failed:
        error = jsonrpc.error_of(line)
        outcome = msgspec.json.encode(error)
        row = msgspec.structs.replace(intent, state="failed", outcome=outcome, settled_at=at)
        if error.code == jsonrpc.OVERLOADED:
            # Not done, and worth another try: its key is free again.
            row = msgspec.structs.replace(row, idempotency_key=None)
        return Outcome(row, None)
    raw = bytes(jsonrpc.result_of(line))
    try:
        result = msgspec.json.decode(raw, type=_Result)
    except msgspec.MsgspecError:
        result = _Result()
    row = msgspec.structs.replace(
        intent,
        state="done",
        outcome=_stored_result(intent.method, raw, result),
        thread_id=result.thread.id if result.thread else intent.thread_id,
        turn_id=result.turn.id if result.turn else intent.turn_id,
        settled_at=at,
    )
    return Outcome(row, _thread_row(row, result, known, at))


def _stored_result(method: str, raw: bytes, result: _Result) -> bytes:
    """thread/resume answers with the whole thread: the row keeps what a repeat must be told."""
    if method == "thread/resume" and result.thread is not None:
        return msgspec.json.encode({"thread": {"id": result.thread.id}})
    return raw


def _thread_row(
    intent: IntentRow, result: _Result, known: ThreadRow | None, at: float
) -> ThreadRow | None:
    if known is not None:
        changes: dict[str, object] = {}
        if intent.method == "thread/resume" and known.status in {"not_loaded", "lost", "archived"}:
            changes["status"] = "idle"
        if intent.method == "thread/archive":
            changes["status"] = "archived"
        return msgspec.structs.replace(known, updated_at=at, **changes) if changes else None
    if intent.method not in {"thread/start", "thread/resume"} or result.thread is None:
        return None
    params = msgspec.json.decode(intent.params, type=dict[str, object])
    return ThreadRow(
        project=intent.project,
        thread_id=result.thread.id,
        account=intent.account,
        status="idle",
        cwd=result.thread.cwd,
        name=result.thread.name,
        settings=msgspec.json.encode({k: params[k] for k in _THREAD_SETTINGS if k in params}),
        has_turns=intent.method == "thread/resume",
        created_at=at,
        updated_at=at,
    )
