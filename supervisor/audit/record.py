"""The kinds of audit records, as typed constructors: who, and what. Pure.

A `Draft` is a record before it has its place in the chain (see `supervisor.audit.chain`). Its
`detail` is a JSON object with sorted keys, and bounded: a long text is cut and hashed, so that
what was cut can still be proved. What comes from the agent is a claim, read leniently: a part of
it that is not what Codex sends is left out, and never an error.
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from hashlib import sha256

import msgspec

from supervisor.ids import Generation
from supervisor.policy.access import Principal
from supervisor.ports.store import GenerationRow, IntentRow, ServerRequestRow

TEXT_LIMIT = 16_384
"""Characters of a command, a path or a reason that go into a record; the rest is only hashed."""


@unique
class Kind(StrEnum):
    """What a record is about."""

    PROJECT_OPENED = "project.opened"
    PROJECT_TRUSTED = "project.trusted"
    PROJECT_UNTRUSTED = "project.untrusted"
    PROJECT_STOPPED = "project.stopped"
    PROJECT_RESTARTED = "project.restarted"
    AGENT_STARTED = "agent.started"
    AGENT_ADOPTED = "agent.adopted"
    AGENT_EXITED = "agent.exited"
    THREAD_STARTED = "thread.started"
    THREAD_RESUMED = "thread.resumed"
    THREAD_NAMED = "thread.named"
    THREAD_ARCHIVED = "thread.archived"
    TURN_SUBMITTED = "turn.submitted"
    TURN_STEERED = "turn.steered"
    TURN_INTERRUPT_REQUESTED = "turn.interrupt_requested"
    TURN_ENDED = "turn.ended"
    COMMAND_RUN = "command.run"
    FILE_CHANGED = "file.changed"
    APPROVAL_ASKED = "approval.asked"
    APPROVAL_ANSWERED = "approval.answered"
    APPROVAL_SETTLED = "approval.settled"
    CONTAINER_EXEC = "container.exec"
    """A person runs a command beside the app-server, in its container."""
    REQUEST_MADE = "request.made"
    """A request that acts and has no kind of its own; the method is in the detail."""


@unique
class Phase(StrEnum):
    """Where in its life the thing recorded is."""

    INTENT = "intent"
    """Decided and committed, not yet done."""
    OUTCOME = "outcome"
    """What became of an intent."""
    FACT = "fact"
    """Seen or reported; it had no intent of ours."""


METHOD_KINDS: Mapping[str, Kind] = {
    "thread/start": Kind.THREAD_STARTED,
    "thread/resume": Kind.THREAD_RESUMED,
    "thread/name/set": Kind.THREAD_NAMED,
    "thread/archive": Kind.THREAD_ARCHIVED,
    "turn/start": Kind.TURN_SUBMITTED,
    "turn/steer": Kind.TURN_STEERED,
    "turn/interrupt": Kind.TURN_INTERRUPT_REQUESTED,
}
"""The kind of a request that acts, by its upstream method."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A record without its place: everything of `AuditRow` but project, host, seq, time, hash.

    Constructors fill in the ids they are told; the caller adds the event and the generation.
    """

    kind: Kind
    phase: Phase
    account: str
    principal: str
    source: str
    client: str
    detail: bytes
    generation: Generation = Generation(0)
    n: int = 0
    """The event it follows from."""
    thread_id: str | None = None
    turn_id: str | None = None
    item_id: str | None = None


# -- requests that act


def intent_made(who: Principal, row: IntentRow) -> Draft:
    """A request that acts is about to be written to the agent."""
    detail = {
        "method": row.method,
        "request_id": row.request_id,
        "params_sha256": row.params_hash,
        "idempotency_key": row.idempotency_key,
    }
    return _of_intent(who, row, Phase.INTENT, detail)


def intent_settled(who: Principal, row: IntentRow) -> Draft:
    """What became of it: the intent's `state`, and the error shown if that is `failed`."""
    failed = row.state == "failed" and row.outcome is not None
    detail = {
        "method": row.method,
        "request_id": row.request_id,
        "state": row.state,
        "error": row.outcome.decode(errors="replace") if failed and row.outcome else None,
    }
    return _of_intent(who, row, Phase.OUTCOME, detail)


def turn_ended(who: Principal, state: str, *, synthesised: bool = False) -> Draft:
    """A turn ended. `synthesised`: we said so, because its app-server died."""
    detail = {"state": state, "synthesised": synthesised}
    return draft(Kind.TURN_ENDED, Phase.FACT, who, detail)


# -- approvals


def approval_asked(who: Principal, row: ServerRequestRow) -> Draft:
    """Codex asks somebody: what for, as far as the request itself says."""
    asked = _object(row.params)
    detail: dict[str, object] = {"approval_id": row.approval_id, "method": row.method}
    for name in ("command", "cwd", "reason", "grantRoot", "tool", "serverName"):
        if isinstance(asked.get(name), str):
            detail[name] = asked[name]
    return _of_request(who, row, Kind.APPROVAL_ASKED, Phase.FACT, detail)


def approval_answered(who: Principal, row: ServerRequestRow) -> Draft:
    """`who` answered (`row.answer`), and the answer is about to be written to the agent."""
    answer = row.answer or b"null"
    decision = _object(answer).get("decision")
    detail = {
        "approval_id": row.approval_id,
        "method": row.method,
        "decision": decision if isinstance(decision, str) else None,
        "answer_sha256": sha256(answer).hexdigest(),
    }
    return _of_request(who, row, Kind.APPROVAL_ANSWERED, Phase.INTENT, detail)


def approval_settled(who: Principal, row: ServerRequestRow, state: str) -> Draft:
    """Nobody can answer any more; `state` is one of lifecycle.approval."""
    detail = {
        "approval_id": row.approval_id,
        "method": row.method,
        "state": state,
        "answered_by": row.answered_by,
    }
    return _of_request(who, row, Kind.APPROVAL_SETTLED, Phase.OUTCOME, detail)


# -- agents and projects


def agent_starting(who: Principal, row: GenerationRow, *, trusted: bool) -> Draft:
    """An app-server is about to be started."""
    detail = {"runtime": row.runtime, "trusted": trusted}
    return _of_generation(who, row, Kind.AGENT_STARTED, Phase.INTENT, detail)


def agent_started(who: Principal, row: GenerationRow) -> Draft:
    """It was started, as `row.pid`."""
    detail = {"runtime": row.runtime, "pid": row.pid}
    return _of_generation(who, row, Kind.AGENT_STARTED, Phase.OUTCOME, detail)


def agent_adopted(who: Principal, row: GenerationRow) -> Draft:
    """A successor took over a running app-server."""
    detail = {"runtime": row.runtime, "pid": row.pid}
    return _of_generation(who, row, Kind.AGENT_ADOPTED, Phase.FACT, detail)


def agent_exited(who: Principal, row: GenerationRow, *, asked: bool) -> Draft:
    """An app-server ended; `asked`: somebody wanted it to."""
    detail = {"exit_kind": row.exit_kind, "exit_detail": row.exit_detail, "asked": asked}
    return _of_generation(who, row, Kind.AGENT_EXITED, Phase.FACT, detail)


def exec_begun(who: Principal, exec_id: str, command: str, directory: str, *, tty: bool) -> Draft:
    """`who` is about to run a command in the container; `command` as a shell would read it."""
    detail = {"exec_id": exec_id, "command": command, "cwd": directory, "tty": tty}
    return draft(Kind.CONTAINER_EXEC, Phase.INTENT, who, detail)


def exec_ended(who: Principal, exec_id: str, exit_code: int, duration_ms: int) -> Draft:
    """It has ended, says the one who ran it; without this record nobody said so."""
    detail = {"exec_id": exec_id, "exit_code": exit_code, "duration_ms": duration_ms}
    return draft(Kind.CONTAINER_EXEC, Phase.OUTCOME, who, detail)


def project_opened(who: Principal, path: str) -> Draft:
    """Somebody gave us a directory."""
    return draft(Kind.PROJECT_OPENED, Phase.FACT, who, {"path": path})


def project_trusted(who: Principal, path: str, *, trusted: bool) -> Draft:
    """A person vouched for the directory's own Codex config, or took it back."""
    kind = Kind.PROJECT_TRUSTED if trusted else Kind.PROJECT_UNTRUSTED
    return draft(kind, Phase.FACT, who, {"path": path})


def project_stopped(who: Principal) -> Draft:
    """Somebody asked for the project to stop."""
    return draft(Kind.PROJECT_STOPPED, Phase.INTENT, who, {})


def project_restarted(who: Principal) -> Draft:
    """Somebody asked for a restart, or the release of a quarantine."""
    return draft(Kind.PROJECT_RESTARTED, Phase.INTENT, who, {})


# -- how all of them are made


def draft(kind: Kind, phase: Phase, who: Principal, detail: Mapping[str, object]) -> Draft:
    """A record of any kind. `detail` holds text, numbers, booleans and None."""
    said = {name: _said(value) for name, value in detail.items()}
    return Draft(
        kind=kind,
        phase=phase,
        account=who.account,
        principal=who.principal,
        source=who.source,
        client=who.client,
        detail=msgspec.json.encode(said, order="sorted"),
    )


def _of_intent(who: Principal, row: IntentRow, phase: Phase, detail: Mapping[str, object]) -> Draft:
    kind = METHOD_KINDS.get(row.method, Kind.REQUEST_MADE)
    made = draft(kind, phase, who, detail)
    return msgspec.structs.replace(made, thread_id=row.thread_id, turn_id=row.turn_id)


def _of_request(
    who: Principal, row: ServerRequestRow, kind: Kind, phase: Phase, detail: Mapping[str, object]
) -> Draft:
    return msgspec.structs.replace(
        draft(kind, phase, who, detail),
        generation=row.generation,
        thread_id=row.thread_id,
        turn_id=row.turn_id,
        item_id=row.item_id,
    )


def _of_generation(
    who: Principal, row: GenerationRow, kind: Kind, phase: Phase, detail: Mapping[str, object]
) -> Draft:
    return msgspec.structs.replace(draft(kind, phase, who, detail), generation=row.generation)


def _object(raw: bytes) -> Mapping[str, object]:
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError):
        return {}


def _said(value: object) -> object:
    """A value of `detail`, bounded, in something JSON can say."""
    if not isinstance(value, str):
        return value
    plain = value[:TEXT_LIMIT].encode("utf-8", "backslashreplace").decode()
    if len(value) <= TEXT_LIMIT:
        return plain
    encoded = value.encode("utf-8", "surrogatepass")
    return {"cut": plain, "bytes": len(encoded), "sha256": sha256(encoded).hexdigest()}
