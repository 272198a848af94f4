"""Frames as JSON: one object a line on the unix socket, one text message on the WebSocket. Pure.

    {"subject": "...", "headers": {...}, "payload": ..., "reply": "_INBOX.x"}

Replies are built by joining bytes around a payload that is JSON already: a delta is never decoded
and encoded again on its way. An inbox needs no escaping, its grammar sees to that.
"""

import msgspec

from supervisor.buses.subjects import HELLO
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.bus import Frame

_FRAME = msgspec.json.Decoder(Frame)
_ENCODER = msgspec.json.Encoder()


class NotTextError(SupervisorError):
    """A frame that is not UTF-8."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `error` header, as a client reads it."""

    code: str
    message: str = ""
    hint: str | None = None
    retryable: bool | None = None
    details: dict[str, object] | None = None


class ReplyHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says beside the payload."""

    seq: int = 0
    end: bool = False
    error: ErrorBody | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a server, as a client reads it; unknown fields are left alone."""

    subject: str
    headers: ReplyHeaders = ReplyHeaders()
    payload: msgspec.Raw = msgspec.Raw(b"null")


class Hello(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The payload of a connection's first frame."""

    account: str
    """The account that subjects must name."""
    server: str
    """The supervisor's version."""
    in_flight: int
    """Requests that may wait for an answer at once."""
    streams: int
    """Streams that may be open at once."""
    max_frame_bytes: int


_REPLY = msgspec.json.Decoder(Reply)


def check_text(data: bytes) -> None:
    """Raises `bad_request` unless all of it is UTF-8: what is passed on unread must be too."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise NotTextError(
                ErrorCode.BAD_REQUEST, f"the frame is not UTF-8 (byte {error.start})"
            ) from None


def decode_frame(data: bytes) -> Frame:
    """A client's frame. Raises `bad_request` for anything else."""
    check_text(data)
    try:
        return _FRAME.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"not a frame: {_words(error)}", details=_reply_of(data)
        ) from None


def decode_reply(data: bytes) -> Reply:
    """A server's frame. Raises `connection_lost` for anything else: nothing after it is sure."""
    try:
        check_text(data)
        return _REPLY.decode(data)
    except (SupervisorError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SupervisorError(
            ErrorCode.CONNECTION_LOST, f"the server sent what is not a frame: {_words(error)}"
        ) from None


def encode_request(subject: str, method: str, params: object, inbox: str) -> bytes:
    """A request. Raises `bad_request` for params that are not JSON."""
    try:
        return _ENCODER.encode(
            {
                "subject": subject,
                "headers": {},
                "payload": {"method": method, "params": params},
                "reply": inbox,
            }
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"the params are not JSON: {_words(error)}"
        ) from None


def encode_cancel(subject: str, inbox: str) -> bytes:
    """Asks for the end of the stream of `inbox`."""
    return _ENCODER.encode({"subject": subject, "headers": {"cancel": True}, "reply": inbox})


def encode_reply(inbox: str, seq: int, payload: bytes) -> bytes:
    """Reply `seq`; `payload` is JSON."""
    return b'{"subject":"%b","headers":{"seq":%d},"payload":%b}' % (inbox.encode(), seq, payload)


def encode_end(inbox: str, seq: int) -> bytes:
    """The empty reply that ends a stream."""
    head = b'{"subject":"%b","headers":{"seq":%d,"end":true},"payload":null}'
    return head % (inbox.encode(), seq)


def encode_error(subject: str, seq: int, error: SupervisorError) -> bytes:
    """The reply that ends an exchange with an error; `subject` is an inbox, or `_ERROR`."""
    try:
        body = _ENCODER.encode(error.as_dict())
    except (TypeError, ValueError):
        # Details or words that are not JSON (a lone surrogate of a path): the code still counts.
        body = _ENCODER.encode(SupervisorError(error.code, ascii(error.message)).as_dict())
    head = b'{"subject":"%b","headers":{"seq":%d,"error":%b},"payload":null}'
    return head % (subject.encode(), seq, body)


def encode_hello(hello: Hello) -> bytes:
    """The first frame of a connection."""
    return encode_reply(HELLO, 0, _ENCODER.encode(hello))


class _OnlyReply(msgspec.Struct):
    reply: str | None = None


_ONLY_REPLY = msgspec.json.Decoder(_OnlyReply)


def _reply_of(data: bytes) -> dict[str, object]:
    """Whom the error is for, where that much of a bad frame can be read."""
    try:
        reply = _ONLY_REPLY.decode(data).reply
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return {} if reply is None or len(reply) > 300 else {"reply": reply}


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)[:300]
