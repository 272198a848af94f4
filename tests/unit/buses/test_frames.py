import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.buses.frames import (
    Hello,
    NotTextError,
    decode_frame,
    decode_reply,
    encode_cancel,
    encode_end,
    encode_error,
    encode_hello,
    encode_reply,
    encode_request,
)
from supervisor.errors import ErrorCode, SupervisorError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=10,
)


def refused(data: bytes) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        decode_frame(data)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    return caught.value


@given(JSON)
def test_params_arrive_as_they_were_sent(params: object) -> None:
    frame = decode_frame(encode_request("s", "m", params, "_INBOX.1"))
    assert (frame.subject, frame.reply, frame.headers.cancel) == ("s", "_INBOX.1", False)
    assert msgspec.json.decode(frame.payload) == {"method": "m", "params": params}


@given(JSON)
def test_a_reply_carries_its_payload_byte_for_byte(payload: object) -> None:
    data = msgspec.json.encode(payload)
    reply = decode_reply(encode_reply("_INBOX.1", 7, data))
    assert (reply.subject, reply.headers.seq, reply.headers.end) == ("_INBOX.1", 7, False)
    assert bytes(reply.payload) == data


def test_replies_are_the_json_that_was_promised() -> None:
    assert json.loads(encode_reply("_INBOX.1", 0, b'{"a":1}')) == {
        "subject": "_INBOX.1",
        "headers": {"seq": 0},
        "payload": {"a": 1},
    }
    assert json.loads(encode_end("_INBOX.1", 3)) == {
        "subject": "_INBOX.1",
        "headers": {"seq": 3, "end": True},
        "payload": None,
    }
    error = SupervisorError(ErrorCode.OVERLOADED, "full", details={"n": 1})
    assert json.loads(encode_error("_INBOX.1", 2, error)) == {
        "subject": "_INBOX.1",
        "headers": {"seq": 2, "error": error.as_dict()},
        "payload": None,
    }


def test_a_greeting_is_a_frame_that_names_account_and_limits() -> None:
    hello = Hello(account="local", server="1", in_flight=2, streams=3, max_frame_bytes=4)
    shown = json.loads(encode_hello(hello))
    assert shown["subject"] == "_HELLO"
    assert shown["payload"] == {
        "account": "local",
        "server": "1",
        "inFlight": 2,
        "streams": 3,
        "maxFrameBytes": 4,
    }


def test_cancel_is_a_header() -> None:
    frame = decode_frame(encode_cancel("s", "_INBOX.1"))
    assert frame.headers.cancel
    assert frame.reply == "_INBOX.1"


@given(st.binary(max_size=200))
def test_junk_is_a_bad_request_and_nothing_else(data: bytes) -> None:
    try:
        decode_frame(data)
    except SupervisorError as error:
        assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017  # either outcome is fine


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a frame"),
        (b"null", "expected `object`"),
        (b"[]", "expected `object`"),
        (b'{"subject":1}', "$.subject"),
        (b"{}", "subject"),
        (b'{"subject":"s","extra":1}', "extra"),
        (b'{"subject":"s","headers":{"cancel":"yes"}}', "$.headers.cancel"),
        (b'{"subject":"s","payload":nope}', "malformed"),
        (b'{"subject":"s"}{"subject":"s"}', "trailing"),
    ],
)
def test_the_error_says_what_is_wrong(data: bytes, says: str) -> None:
    assert says.lower() in refused(data).message.lower()


@pytest.mark.parametrize("place", ["subject", "payload", "reply"])
def test_not_utf8_is_seen_wherever_it_is(place: str) -> None:
    frame = {"subject": "s", "payload": "p", "reply": "_INBOX.1", place: "HERE"}
    data = json.dumps(frame).encode().replace(b"HERE", b"\xff\xfe")
    with pytest.raises(NotTextError):
        decode_frame(data)


def test_endless_nesting_is_refused_not_followed() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert "nested too deeply" in refused(b'{"subject":"s","payload":' + deep + b"}").message


def test_the_error_of_a_bad_frame_names_the_inbox_where_it_can_be_read() -> None:
    assert refused(b'{"subject":1,"reply":"_INBOX.9"}').details == {"reply": "_INBOX.9"}
    assert refused(b'{"subject":1,"reply":9}').details == {}


def test_an_error_whose_words_are_not_json_still_tells_its_code() -> None:
    error = SupervisorError(ErrorCode.INTERNAL, "bad \ud800 path")
    shown = json.loads(encode_error("_INBOX.1", 0, error))
    assert shown["headers"]["error"]["code"] == "internal"


@pytest.mark.parametrize("data", [b"", b"junk", b"[]", b"\xff", b'{"subject":1}'])
def test_a_server_that_talks_junk_is_a_lost_connection(data: bytes) -> None:
    with pytest.raises(SupervisorError) as caught:
        decode_reply(data)
    assert caught.value.code is ErrorCode.CONNECTION_LOST


@pytest.mark.parametrize("params", [{"a": object()}, {"a": "\ud800"}])
def test_params_that_are_not_json_are_the_callers_error(params: object) -> None:
    with pytest.raises(SupervisorError) as caught:
        encode_request("s", "m", params, "_INBOX.1")
    assert caught.value.code is ErrorCode.BAD_REQUEST
