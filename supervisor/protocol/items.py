"""Thread items, read leniently: what is there and of the right type is shown, the rest is not.

Commands and file changes are what audit wants; the rest of an item stays JSON.
"""

from typing import Any

import msgspec
from msgspec import Raw


class CommandRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a `commandExecution` item says."""

    command: str
    """As Codex runs it, one string: `/bin/bash -lc 'make test'`."""
    cwd: str
    source: str | None = None
    """`agent`, `userShell`, `unifiedExecStartup`, `unifiedExecInteraction`."""
    exit_code: int | None = None
    duration_ms: int | None = None
    process_id: str | None = None


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a `fileChange` item."""

    path: str
    """Absolute."""
    kind: str
    """`add`, `delete`, `update`."""
    diff: str
    """Unified for `update`, the whole content for `add`."""
    move_path: str | None = None
    """Where an update moved the file to."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a turn."""

    id: str
    kind: str
    """Codex's `type`; `unknown` where it has none."""
    status: str | None = None
    """`inProgress`, `completed`, `failed`, `declined`; many kinds have none."""
    body: bytes
    """The item's JSON, as it came."""
    client_id: str | None = None
    """Of a `userMessage`: the `clientUserMessageId` it was sent with."""
    command: CommandRun | None = None
    changes: tuple[FileChange, ...] = ()


class _Flat(msgspec.Struct, rename="camel"):
    id: str
    type: str = "unknown"
    status: str | None = None
    client_id: str | None = None
    command: str | None = None
    cwd: str | None = None
    source: str | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    process_id: str | None = None
    changes: Raw = Raw()


class _ItemParams(msgspec.Struct):
    item: Raw


class _ItemMessage(msgspec.Struct):
    params: _ItemParams


_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_message = msgspec.json.Decoder(_ItemMessage).decode
_decode_flat = msgspec.json.Decoder(_Flat).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode


def item_of(line: bytes) -> Item | None:
    """The item of an `item/started` or `item/completed` line; None if there is none with an id."""
    try:
        return item_from(bytes(_decode_message(line).params.item))
    except _BROKEN:
        return None


def item_from(body: bytes) -> Item | None:
    """The item of its own JSON; None if that is no object with an id."""
    try:
        flat = _decode_flat(body)
    except _BROKEN:
        loose = _loose_flat(body)
        if loose is None:
            return None
        flat = loose
    return Item(
        id=flat.id,
        kind=flat.type,
        status=flat.status,
        body=body,
        client_id=flat.client_id,
        command=_command(flat) if flat.type == "commandExecution" else None,
        changes=_changes(flat.changes) if flat.type == "fileChange" else (),
    )


def _command(flat: _Flat) -> CommandRun:
    return CommandRun(
        command=flat.command or "",
        cwd=flat.cwd or "",
        source=flat.source,
        exit_code=flat.exit_code,
        duration_ms=flat.duration_ms,
        process_id=flat.process_id,
    )


def _changes(raw: Raw) -> tuple[FileChange, ...]:
    try:
        changes = _decode_list(raw)
    except _BROKEN:
        return ()
    return tuple(_change(_object(change)) for change in changes)


def _change(fields: dict[str, Raw]) -> FileChange:
    """A change that cannot be read is shown empty: that there was one matters to audit."""
    kind = _object(fields.get("kind"))
    return FileChange(
        path=_read(fields.get("path"), str) or "",
        kind=_read(kind.get("type"), str) or "unknown",
        diff=_read(fields.get("diff"), str) or "",
        move_path=_read(kind.get("move_path"), str),
    )


def _loose_flat(body: bytes) -> _Flat | None:
    """Field by field, when one of them is not of the type it should be."""
    fields = _object(body)
    identifier = _read(fields.get("id"), str)
    if identifier is None:
        return None
    return _Flat(
        id=identifier,
        type=_read(fields.get("type"), str) or "unknown",
        status=_read(fields.get("status"), str),
        client_id=_read(fields.get("clientId"), str),
        command=_read(fields.get("command"), str),
        cwd=_read(fields.get("cwd"), str),
        source=_read(fields.get("source"), str),
        exit_code=_read(fields.get("exitCode"), int),
        duration_ms=_read(fields.get("durationMs"), int),
        process_id=_read(fields.get("processId"), str),
        changes=fields.get("changes", Raw()),
    )


def _object(raw: bytes | Raw | None) -> dict[str, Raw]:
    return _read(raw, dict[str, Raw]) or {}


def _read(raw: bytes | Raw | None, shape: Any) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=shape)
    except _BROKEN:
        return None


def message_text(item: Item) -> str:
    """What an item says in words: messages, plans, reasoning summaries, command output, reviews.

    Empty for kinds without words.
    """
    fields = _object(item.body)
    match item.kind:
        case "agentMessage" | "plan":
            return _read(fields.get("text"), str) or ""
        case "userMessage":
            return "\n".join(_texts(fields.get("content")))
        case "reasoning":
            return "\n".join(_read(fields.get("summary"), list[str]) or ())
        case "commandExecution":
            return _read(fields.get("aggregatedOutput"), str) or ""
        case "enteredReviewMode" | "exitedReviewMode":
            return _read(fields.get("review"), str) or ""
        case _:
            return ""


def _texts(raw: Raw | None) -> list[str]:
    parts = [_object(part) for part in _read(raw, list[Raw]) or ()]
    return [text for part in parts if (text := _read(part.get("text"), str)) is not None]
