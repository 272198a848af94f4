"""Messages to bytes, and hostile JSON to values: the two doors through which text gets to Codex.

Every line that leaves here is valid UTF-8, one JSON object, and holds one newline, its last byte:
one line that is not UTF-8 ends the app-server, and a newline inside would be a second message.
"""

from itertools import accumulate
from typing import Final

import msgspec
from msgspec import Raw

from supervisor.errors import ErrorCode, SupervisorError

MAX_DEPTH: Final = 100
"""Levels of client JSON. Codex reads 127 levels of a whole message; it drops a deeper one without
an answer."""

MAX_LINE_DEPTH: Final = 256
"""Levels of a line of the app-server. It reads 127 and adds a few of its own; the bound is far from
where our decoder, or that of a client who is shown the line in a frame, gives up."""

ID_MIN: Final = -(2**63)
ID_MAX: Final = 2**63 - 1

BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that decoding of any bytes can raise."""

_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)

_encode = msgspec.json.encode
_decode_id = msgspec.json.Decoder(int | str).decode


def canonical_id(raw: bytes | Raw) -> bytes | None:
    """An id's JSON in its one form (`"\\u0061"` becomes `"a"`), or None if Codex would not take it:
    ids are strings or 64-bit integers."""
    try:
        value = _decode_id(raw)
    except BROKEN:
        return None
    if isinstance(value, int) and not ID_MIN <= value <= ID_MAX:
        return None
    return _encode(value)


def request(request_id: str | int, method: str, params: object) -> bytes:
    """A request line. `bad_request` for params that are no JSON (`Raw` inside is checked too).

    Floats that are not finite become null, as msgspec has it.
    """
    return _line(b'{"id":', _id(request_id), b',"method":', encode_value(method), _params(params))


def notification(method: str, params: object = None) -> bytes:
    """A notification line; None leaves the params out."""
    return _line(b'{"method":', encode_value(method), b"" if params is None else _params(params))


def response(request_id: bytes, result: object) -> bytes:
    """The answer to a server request; `request_id` is its JSON, as `Parsed.id` has it."""
    return _line(b'{"id":', _raw_id(request_id), b',"result":', encode_value(result))


def error_response(request_id: bytes, code: int, message: str) -> bytes:
    """The answer that a server request failed."""
    error = encode_value({"code": code, "message": message})
    return _line(b'{"id":', _raw_id(request_id), b',"error":', error)


def _line(*parts: bytes) -> bytes:
    return b"".join((*parts, b"}\n"))


def _params(params: object) -> bytes:
    return b',"params":' + encode_value(params)


def _id(request_id: str | int) -> bytes:
    if isinstance(request_id, bool) or (
        isinstance(request_id, int) and not ID_MIN <= request_id <= ID_MAX
    ):
        raise SupervisorError(ErrorCode.BAD_REQUEST, "an id is a string or a 64-bit integer")
    return encode_value(request_id)


def _raw_id(raw: bytes) -> bytes:
    canonical = canonical_id(raw)
    if canonical is None:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "an id is a string or a 64-bit integer")
    return canonical


def encode_value(value: object) -> bytes:
    """One JSON value on one line, checked whole: what came as `Raw` may be anything.

    `bad_request` for what is no JSON.
    """
    try:
        data = _encode(value)
        _check(data)
    except _UNENCODABLE as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"this cannot be sent as JSON: {_reason(error)}"
        ) from error
    # In valid JSON a raw newline is white space between tokens, never part of a string.
    return data.replace(b"\n", b" ") if b"\n" in data else data


def _check(data: bytes) -> None:
    """Raises UnicodeDecodeError, msgspec.DecodeError or RecursionError."""
    if not data.isascii():
        str(data, "utf-8")
    msgspec.json.decode(data, type=Raw)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeError):
        return "not valid Unicode"
    return str(error)[:200]


def check_client_json(data: bytes) -> object:
    """The value of JSON from anybody. Raises `bad_request`, never anything else.

    Refuses what is not UTF-8, lone surrogates, NaN and Infinity, numbers no float can hold, and
    nesting past `MAX_DEPTH`. Of a key given twice the last counts, here as for all who see the
    value later: send on the value, encoded anew, never these bytes.
    """
    try:
        value: object = msgspec.json.decode(data)  # builds, and so checks, every string
    except _UNENCODABLE as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"this is not JSON: {_reason(error)}"
        ) from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"this is nested deeper than {MAX_DEPTH} levels"
        )
    return value


def _deeper_than(value: object, limit: int) -> bool:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(limit):
        below: list[object] = []
        for container in level:
            if isinstance(container, dict):
                below.extend(v for v in container.values() if isinstance(v, dict | list))
            elif isinstance(container, list):
                below.extend(v for v in container if isinstance(v, dict | list))
        if not below:
            return False
        level = below
    return True


_NO_BRACKETS = bytes(c for c in range(256) if c not in b'[]{}"')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def is_too_deep(line: bytes) -> bool:
    """Whether `line`, if it is JSON at all, is nested deeper than `MAX_LINE_DEPTH`. Cheap for lines
    that cannot be, and never recursive."""
    if len(line) < 2 * MAX_LINE_DEPTH or line.count(b"[") + line.count(b"{") <= MAX_LINE_DEPTH:
        return False
    marks = line.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_BRACKETS)
    brackets = b"".join(marks.split(b'"')[::2])  # what is not inside a string
    return max(accumulate(_STEPS[c] for c in brackets), default=0) > MAX_LINE_DEPTH
