"""JSON-RPC as Codex speaks it: one object a line, `jsonrpc` absent (accepted if there).

`parse` tells what a line is and whom it concerns, in one decode, and never raises. What a message
holds is decoded from the line by whoever needs it: `result_of`, `error_of`, `params_of`.
msgspec checks UTF-8 only in the strings it builds, so lines are checked whole before.
Writing is in `supervisor.protocol.encoding`, and offered here too.
"""

import re
from enum import Enum, StrEnum, unique
from typing import Final

import msgspec
from msgspec import Raw

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.encoding import (
    BROKEN,
    canonical_id,
    check_client_json,
    error_response,
    is_too_deep,
    notification,
    request,
    response,
)
from supervisor.protocol.methods import (
    CLIENT_REQUESTS,
    NOTIFICATIONS,
    SERVER_REQUESTS,
    Method,
    Scope,
)

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "OVERLOADED",
    "PARSE_ERROR",
    "Kind",
    "Parsed",
    "Problem",
    "RpcError",
    "check_client_json",
    "error_of",
    "error_response",
    "notification",
    "params_of",
    "parse",
    "request",
    "response",
    "result_of",
]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
"""Codex's answer to an unknown method, too."""
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
OVERLOADED: Final = -32001
"""Codex has 128 requests in flight and takes no more."""


@unique
class Kind(Enum):
    """What a line is."""

    NOTIFICATION = "notification"
    REQUEST = "request"
    RESPONSE = "response"
    ERROR = "error"
    MALFORMED = "malformed"


@unique
class Problem(StrEnum):
    """Why a line is no message."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    """Nested deeper than `MAX_LINE_DEPTH`."""
    LONE_SURROGATE = "lone_surrogate"
    NOT_OBJECT = "not_object"
    BAD_ID = "bad_id"
    """Neither a string nor a 64-bit integer."""
    NOT_A_MESSAGE = "not_a_message"


class Parsed(msgspec.Struct, frozen=True, gc=False):
    """What a line says it is; every word of it a claim of the app-server's."""

    kind: Kind
    method: str | None = None
    id: bytes | None = None
    """The id as canonical JSON, its type kept: equal ids are equal bytes."""
    thread_id: str | None = None
    turn_id: str | None = None
    item_id: str | None = None
    delta: str | None = None
    """The text of a notification that is a text delta."""
    problem: Problem | None = None


class RpcError(msgspec.Struct, frozen=True):
    """The error object of an answer."""

    code: int
    message: str
    data: Raw
    """JSON; `null` where there is none."""


_ABSENT = Raw()
_NULL = Raw(b"null")
_NAME_LIMIT: Final = 200
"""Longer method names are no methods: they would fill counters and logs."""


class _Ref(msgspec.Struct, gc=False):
    id: str | None = None


class _Params(msgspec.Struct, gc=False, rename="camel"):
    thread_id: str | None = None
    turn_id: str | None = None
    item_id: str | None = None
    delta: str | None = None
    thread: _Ref | None = None
    turn: _Ref | None = None
    item: _Ref | None = None
    call_id: str | None = None
    conversation_id: str | None = None
    expected_turn_id: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    method: str | None = None
    id: Raw = _ABSENT
    params: _Params | None = None
    result: Raw = _ABSENT
    error: Raw = _ABSENT


class _Loose(msgspec.Struct):
    """The envelope when a field of it has not the type we expect."""

    method: Raw = _ABSENT
    id: Raw = _ABSENT
    params: Raw = _ABSENT
    result: Raw = _ABSENT
    error: Raw = _ABSENT


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_loose = msgspec.json.Decoder(_Loose).decode
_decode_id = msgspec.json.Decoder(int | str).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode

_EMPTY = _Params()
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_DEPTH = {Scope.NONE: 0, Scope.PROCESS: 0, Scope.THREAD: 1, Scope.TURN: 2, Scope.ITEM: 3}
_UNKNOWN_DEPTH = 3


def _depths(*tables: dict[str, Method]) -> dict[str, int]:
    return {m.name: _DEPTH[m.scope] for table in tables for m in table.values()}


_NOTIFICATION_DEPTH = _depths(NOTIFICATIONS)
_REQUEST_DEPTH = _depths(CLIENT_REQUESTS, SERVER_REQUESTS)
_DELTAS = frozenset(m.name for m in NOTIFICATIONS.values() if m.delta)


def parse(line: bytes) -> Parsed:
    """What `line` (without its newline) is. Never raises; see `Problem` for what can be wrong."""
    try:
        if not line.isascii():
            str(line, "utf-8")
        if is_too_deep(line):
            return _malformed(Problem.TOO_DEEP)
        envelope = _decode(line)
    except UnicodeDecodeError:
        return _malformed(Problem.NOT_UTF8)
    except BROKEN:
        return _parse_loose(line)
    return _classify(envelope)


def _classify(envelope: _Envelope) -> Parsed:
    method = envelope.method
    if method is None:
        return _answer(envelope.id, envelope.result, envelope.error)
    params = envelope.params or _EMPTY
    if envelope.id is not _ABSENT:
        return _request(method, envelope.id, params)
    depth = _NOTIFICATION_DEPTH.get(method)
    if depth is None:
        if len(method) > _NAME_LIMIT:
            return _malformed(Problem.NOT_A_MESSAGE)
        depth = _UNKNOWN_DEPTH
    thread, turn, item = _ids(params, depth)
    delta = params.delta if method in _DELTAS else None
    return Parsed(Kind.NOTIFICATION, method, None, thread, turn, item, delta)


def _ids(params: _Params, depth: int) -> tuple[str | None, str | None, str | None]:
    """Thread, turn and item, as far as the message's scope goes: a field that is called like an
    id beyond it means something else."""
    if depth == 0:
        return None, None, None
    thread = params.thread_id
    if thread is None:
        thread = params.thread.id if params.thread else params.conversation_id
    if depth == 1:
        return thread, None, None
    turn = params.turn_id
    if turn is None:
        turn = params.turn.id if params.turn else params.expected_turn_id
    if depth == 2:
        return thread, turn, None
    item = params.item_id
    if item is None:
        item = params.item.id if params.item else params.call_id
    return thread, turn, item


def _request(method: str, raw_id: Raw, params: _Params) -> Parsed:
    request_id = canonical_id(raw_id)
    if request_id is None:
        return _malformed(Problem.BAD_ID)
    if len(method) > _NAME_LIMIT:
        return _malformed(Problem.NOT_A_MESSAGE)
    thread, turn, item = _ids(params, _REQUEST_DEPTH.get(method, _UNKNOWN_DEPTH))
    return Parsed(Kind.REQUEST, method, request_id, thread, turn, item)


def _answer(raw_id: Raw, result: Raw, error: Raw) -> Parsed:
    failed = error is not _ABSENT and bytes(error) != b"null"
    if not failed and result is _ABSENT:
        return _malformed(Problem.NOT_A_MESSAGE)
    request_id = None if raw_id is _ABSENT else canonical_id(raw_id)
    if request_id is None:
        return _malformed(Problem.BAD_ID)
    return Parsed(Kind.ERROR if failed else Kind.RESPONSE, id=request_id)


def _malformed(problem: Problem) -> Parsed:
    return Parsed(Kind.MALFORMED, problem=problem)


def _parse_loose(line: bytes) -> Parsed:
    """The slow way, for valid UTF-8 that is not what we expect: what can be read is read."""
    try:
        loose = _decode_loose(line)
    except msgspec.ValidationError:
        return _malformed(_json_problem(line) or Problem.NOT_OBJECT)
    except BROKEN:
        return _malformed(_json_problem(line) or Problem.NOT_JSON)
    if loose.method is _ABSENT or bytes(loose.method) == b"null":
        return _answer(loose.id, loose.result, loose.error)
    method = _text(loose.method)
    if method is None:
        return _malformed(Problem.NOT_A_MESSAGE)
    return _classify(
        _Envelope(method=method, id=loose.id, params=_loose_params(_fields(loose.params)))
    )


def _json_problem(line: bytes) -> Problem | None:
    """What keeps `line` from being JSON at all; None if nothing does."""
    try:
        msgspec.json.decode(line, type=Raw)
    except RecursionError:
        return Problem.TOO_DEEP
    except msgspec.DecodeError:
        if _SURROGATE.search(line) is None:
            return Problem.NOT_JSON
    else:
        return None
    try:  # is it JSON but for its surrogates?
        msgspec.json.decode(_SURROGATE.sub(rb"\\ufffd", line), type=Raw)
    except BROKEN:
        return Problem.NOT_JSON
    return Problem.LONE_SURROGATE


def _loose_params(fields: dict[str, Raw]) -> _Params:
    def ref(name: str) -> _Ref | None:
        identifier = _text(_fields(fields.get(name, _NULL)).get("id", _NULL))
        return None if identifier is None else _Ref(identifier)

    def text(name: str) -> str | None:
        return _text(fields.get(name, _NULL))

    return _Params(
        thread_id=text("threadId"),
        turn_id=text("turnId"),
        item_id=text("itemId"),
        delta=text("delta"),
        thread=ref("thread"),
        turn=ref("turn"),
        item=ref("item"),
        call_id=text("callId"),
        conversation_id=text("conversationId"),
        expected_turn_id=text("expectedTurnId"),
    )


def _fields(raw: Raw) -> dict[str, Raw]:
    try:
        return _decode_object(raw)
    except BROKEN:
        return {}


def _text(raw: Raw) -> str | None:
    try:
        return _decode_text(raw)
    except BROKEN:
        return None


def result_of(line: bytes) -> Raw:
    """The result of a `RESPONSE` line, else `bad_request`. A view: it keeps the line alive."""
    return _part(line, "result")


def params_of(line: bytes) -> Raw:
    """The params of a message, `null` where it has none. `bad_request` if it is not one."""
    loose = _loose(line)
    return _NULL if loose.params is _ABSENT else loose.params


def error_of(line: bytes) -> RpcError:
    """The error of an `ERROR` line; what is not of the right type there is left out."""
    fields = _fields(_part(line, "error"))
    try:
        code = _decode_id(fields.get("code", _NULL))
    except BROKEN:
        code = INTERNAL_ERROR
    return RpcError(
        code=code if isinstance(code, int) else INTERNAL_ERROR,
        message=_text(fields.get("message", _NULL)) or "",
        data=fields.get("data", _NULL),
    )


def _part(line: bytes, name: str) -> Raw:
    part: Raw = getattr(_loose(line), name)
    if part is _ABSENT:
        raise SupervisorError(ErrorCode.BAD_REQUEST, f"the message has no {name}")
    return part


def _loose(line: bytes) -> _Loose:
    try:
        str(line, "utf-8")
        return _decode_loose(line)
    except BROKEN as error:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "the line is not a message") from error
