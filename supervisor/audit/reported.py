"""Records of what the app-server reports it did: commands run and files changed. Pure.

What it says is a claim, read leniently: what is not as Codex sends it is left out, never an error.
"""

from hashlib import sha256
from typing import Protocol

import msgspec

from supervisor.audit.record import Draft, Kind, Phase, draft
from supervisor.policy.access import Principal
from supervisor.ports.store import ItemRow

CHANGES_LIMIT = 1_000
"""Files of one patch that get a record each; the rest share one that says how many they are."""
CUT_OFF = "cut_off"
"""The status of what was begun, and whose end Codex never told: it may be done in part."""


class SeenItem(Protocol):
    """An item as the app-server sent it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def kind(self) -> str:
        """Codex's `type`."""

    @property
    def body(self) -> bytes | msgspec.Raw:
        """All of it, JSON."""


def command_run(
    who: Principal,
    phase: Phase,
    *,
    command: str,
    cwd: str | None,
    exit_code: int | None,
    duration_ms: int | None,
    source: str | None,
    status: str | None = None,
) -> Draft:
    """A command Codex reports. `source` is Codex's word for who ran it; None where it does not
    say, or where the command has not ended."""
    detail = {
        "command": command,
        "cwd": cwd,
        "exit_code": exit_code,
        "duration_ms": duration_ms,
        "source": source,
        "status": status,
    }
    return draft(Kind.COMMAND_RUN, phase, who, detail)


def file_changed(
    who: Principal,
    phase: Phase,
    *,
    path: str,
    kind: str,
    diff: str,
    moved_to: str | None = None,
    status: str | None = None,
) -> Draft:
    """A file Codex reports as changed: the diff's size and hash, never its text. `status` says
    whether it was: `completed`, `failed`, `declined`."""
    encoded = diff.encode("utf-8", "surrogatepass")
    detail = {
        "path": path,
        "moved_to": moved_to,
        "kind": kind,
        "diff_bytes": len(encoded),
        "diff_sha256": sha256(encoded).hexdigest(),
        "status": status,
    }
    return draft(Kind.FILE_CHANGED, phase, who, detail)


class _Command(msgspec.Struct, rename="camel"):
    command: str = ""
    cwd: str | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    source: str | None = None
    status: str | None = None


class _ChangeKind(msgspec.Struct):
    type: str = "unknown"
    move_path: str | None = None


class _Change(msgspec.Struct):
    path: str = ""
    kind: _ChangeKind = msgspec.field(default_factory=_ChangeKind)
    diff: str = ""


class _Patch(msgspec.Struct):
    changes: list[_Change] = msgspec.field(default_factory=list)
    status: str | None = None


def item_drafts(who: Principal, item: SeenItem, phase: Phase) -> list[Draft]:
    """The records of an item that started (`intent`) or completed (`outcome`): one of a command,
    one of each file of a patch, none of anything else."""
    drafts = _drafts(who, item.kind, item.body, phase)
    return [msgspec.structs.replace(one, item_id=item.id) for one in drafts]


def cut_off_drafts(who: Principal, row: ItemRow) -> list[Draft]:
    """The outcomes of an item that was open when its turn or its app-server ended."""
    drafts = _drafts(who, row.kind, row.body, Phase.OUTCOME, status=CUT_OFF)
    return [
        msgspec.structs.replace(
            one, item_id=row.item_id, thread_id=row.thread_id, turn_id=row.turn_id
        )
        for one in drafts
    ]


def _drafts(
    who: Principal, kind: str, body: bytes | msgspec.Raw, phase: Phase, status: str | None = None
) -> list[Draft]:
    try:
        if kind == "commandExecution":
            return [_command_draft(who, phase, body, status)]
        if kind == "fileChange":
            return _patch_drafts(who, phase, body, status)
    except (msgspec.MsgspecError, UnicodeError) as e:
        about = Kind.COMMAND_RUN if kind == "commandExecution" else Kind.FILE_CHANGED
        return [draft(about, phase, who, {"unreadable": str(e)})]
    return []


def _command_draft(
    who: Principal, phase: Phase, body: bytes | msgspec.Raw, status: str | None
) -> Draft:
    seen = msgspec.json.decode(body, type=_Command)
    return command_run(
        who,
        phase,
        command=seen.command,
        cwd=seen.cwd,
        exit_code=seen.exit_code,
        duration_ms=seen.duration_ms,
        source=seen.source,
        status=status or seen.status,
    )


def _patch_drafts(
    who: Principal, phase: Phase, body: bytes | msgspec.Raw, status: str | None
) -> list[Draft]:
    patch = msgspec.json.decode(body, type=_Patch)
    status = status or patch.status
    drafts = [
        file_changed(
            who,
            phase,
            path=c.path,
            kind=c.kind.type,
            diff=c.diff,
            moved_to=c.kind.move_path,
            status=status,
        )
        for c in patch.changes[:CHANGES_LIMIT]
    ]
    more = len(patch.changes) - len(drafts)
    if more > 0:
        drafts.append(draft(Kind.FILE_CHANGED, phase, who, {"more": more, "status": status}))
    return drafts
