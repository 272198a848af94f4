"""Whatever is encoded is one valid line; whatever is decoded from a client is a value."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.encoding import MAX_DEPTH
from supervisor.protocol.jsonrpc import (
    Kind,
    check_client_json,
    error_response,
    notification,
    params_of,
    parse,
    request,
    response,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary().map(Raw),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.text() | st.integers(), st.text(), values | st.text(st.characters()).map(lambda t: [t]))
@example("1", "m", Raw(b'1}\n{"method":"initialized"'))
@example("1", "m", {"a": Raw(b'1},"method":"n"')})
def test_a_request_is_one_line_or_bad_request(
    identifier: str | int, method: str, params: object
) -> None:
    try:
        line = request(identifier, method, params)
    except SupervisorError as error:
        assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017
        return
    assert line.index(b"\n") == len(line) - 1
    message = json.loads(line.decode())
    assert (message["id"], message["method"]) == (identifier, method)


def test_ids_keep_their_type() -> None:
    assert request("r-1", "thread/list", {}) == b'{"id":"r-1","method":"thread/list","params":{}}\n'
    assert request(1, "thread/list", {}) == b'{"id":1,"method":"thread/list","params":{}}\n'
    assert response(b"0", {"a": 1}) == b'{"id":0,"result":{"a":1}}\n'
    assert response(b'"0"', None) == b'{"id":"0","result":null}\n'
    assert error_response(b"3", -32601, "no") == (
        b'{"id":3,"error":{"code":-32601,"message":"no"}}\n'
    )


def test_a_notification_without_params_has_none() -> None:
    assert notification("initialized") == b'{"method":"initialized"}\n'
    assert notification("x", {"a": 1}) == b'{"method":"x","params":{"a":1}}\n'


def circle() -> object:
    rounds: list[object] = []
    rounds.append(rounds)
    return rounds


@pytest.mark.parametrize(
    "params",
    [
        "lone \ud800",
        {"\udfff": 1},
        {"a": ["\ud83d"]},
        object(),
        {None: 1},
        circle(),
        Raw(b""),
        Raw(b"not json"),
        Raw(b'"\xff"'),
        Raw(b'"\\ud800"'),
        Raw(b"1 2"),
        {"a": Raw(b'1}\n{"id":1')},
    ],
    ids=repr,
)
def test_what_cannot_be_sent_is_a_bad_request(params: object) -> None:
    encoders: list[Callable[[], bytes]] = [
        lambda: request(1, "m", params),
        lambda: notification("m", params),
        lambda: response(b"1", params),
    ]
    for encode in encoders:
        with pytest.raises(SupervisorError) as caught:
            encode()
        assert caught.value.code is ErrorCode.BAD_REQUEST


def test_method_and_message_are_checked_as_params_are() -> None:
    encoders: list[Callable[[], bytes]] = [
        lambda: request(1, "\ud800", {}),
        lambda: request("\ud800", "m", {}),
        lambda: error_response(b"1", -1, "\ud800"),
    ]
    for encode in encoders:
        with pytest.raises(SupervisorError, match="not valid Unicode"):
            encode()


def test_a_newline_between_tokens_of_raw_json_does_not_end_the_line() -> None:
    line = request(1, "m", Raw(b'{\n"a": "b\\nc"\r\n}'))
    assert line.count(b"\n") == 1
    assert json.loads(bytes(params_of(line[:-1]))) == {"a": "b\nc"}


@pytest.mark.parametrize("identifier", [2**63, -(2**63) - 1, True, False])
def test_an_id_codex_would_not_answer_is_refused(identifier: int) -> None:
    with pytest.raises(SupervisorError, match="64-bit"):
        request(identifier, "m", {})


@pytest.mark.parametrize("identifier", [b"", b"null", b"1.5", b"[1]", b'"\xff"', b"1}", b"9" * 30])
def test_an_answer_needs_an_id_that_can_have_been_asked(identifier: bytes) -> None:
    with pytest.raises(SupervisorError, match="64-bit"):
        response(identifier, {})


@given(st.text() | st.integers(-(2**63), 2**63 - 1))
def test_an_id_comes_back_in_the_form_it_was_sent(identifier: str | int) -> None:
    asked = parse(request(identifier, "m", {})[:-1])
    assert asked.kind is Kind.REQUEST
    assert asked.id is not None
    assert parse(response(asked.id, {})[:-1]).id == asked.id
    assert json.loads(asked.id) == identifier


@given(st.binary() | st.text().map(str.encode))
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b"9" * 100_000)
@example(b"-" + b"9" * 5_000 + b".5e3")
def test_client_bytes_are_a_value_or_bad_request(data: bytes) -> None:
    try:
        value = check_client_json(data)
    except SupervisorError as error:
        assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017
        return
    assert value == json.loads(data) or isinstance(value, float)
    request(1, "m", value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'["\xc0\x80"]',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b"NaN",
        b'{"a":Infinity}',
        b"-Infinity",
        b"1e400",
        b"{} {}",
        b'{"a":1,}',
        b"\xef\xbb\xbf{}",
        b"'a'",
        b"9" * 5000,
    ],
)
def test_hostile_client_json_is_refused(data: bytes) -> None:
    with pytest.raises(SupervisorError) as caught:
        check_client_json(data)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_refused_past_the_limit(opening: bytes, closing: bytes) -> None:
    check_client_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    with pytest.raises(SupervisorError, match="nested deeper"):
        check_client_json(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))


def test_many_shallow_containers_are_not_deep() -> None:
    data = b"[" + b",".join([b'[{"a":[]}]'] * 1000) + b"]"
    assert len(list(check_client_json(data))) == 1000  # type: ignore[call-overload]


def test_good_client_json_is_its_value() -> None:
    assert check_client_json('{"a":[1,2.5,null,true,"é\\u0000\\ud83d\\ude00"]}'.encode()) == {
        "a": [1, 2.5, None, True, "é\x00😀"]
    }


def test_of_a_key_given_twice_the_last_counts_here_and_upstream() -> None:
    value = check_client_json(b'{"sandbox":"read-only","sandbox":"danger-full-access"}')
    assert b"read-only" not in request(1, "thread/start", value)


def test_floats_that_are_not_finite_become_null() -> None:
    assert params_of(request(1, "m", [math.nan, math.inf])[:-1]) == Raw(b"[null,null]")
