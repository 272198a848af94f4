"""Every line is something: five kinds of result, and never an exception."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.jsonrpc import (
    INTERNAL_ERROR,
    Kind,
    Parsed,
    Problem,
    error_of,
    params_of,
    parse,
    result_of,
)

Ids = tuple[str | None, str | None, str | None]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0"),
        "method": st.sampled_from(["item/started", "turn/start", "x"]) | json_values,
        "id": st.integers() | st.text() | json_values,
        "params": st.dictionaries(
            st.sampled_from(["threadId", "turnId", "itemId", "delta", "thread", "turn", "item"]),
            json_values | st.fixed_dictionaries({"id": json_values}),
        )
        | json_values,
        "result": json_values,
        "error": json_values,
    },
)


def check(parsed: Parsed) -> None:
    assert isinstance(parsed, Parsed)
    assert (parsed.kind is Kind.MALFORMED) == (parsed.problem is not None)
    assert (parsed.kind in (Kind.NOTIFICATION, Kind.REQUEST)) == (parsed.method is not None)
    assert (parsed.kind in (Kind.REQUEST, Kind.RESPONSE, Kind.ERROR)) == (parsed.id is not None)


@given(st.binary())
@example(b"")
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"method":"a","params":' + b'{"thread":' * 100_000)
@example(b'{"id":' + b"9" * 10_000 + b',"result":1}')
def test_any_bytes_yield_one_result_type(data: bytes) -> None:
    check(parse(data))


@given(envelopes)
def test_any_envelope_yields_one_result_type(message: dict[str, object]) -> None:
    line = json.dumps(message).encode()
    check(parse(line))


@given(envelopes, st.data())
def test_any_damage_to_an_envelope_yields_one_result_type(
    message: dict[str, object], data: st.DataObject
) -> None:
    line = bytearray(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(line) - 1))
        line[place] = data.draw(st.integers(0, 255))
    check(parse(bytes(line)))


def test_a_text_delta_carries_its_ids_and_its_text() -> None:
    line = (
        b'{"method":"item/agentMessage/delta","params":{"threadId":"t","turnId":"u","itemId":"i",'
        b'"delta":"h\\u00e9 \\ud83d\\ude00"},"emittedAtMs":1}'
    )
    assert parse(line) == Parsed(
        Kind.NOTIFICATION, "item/agentMessage/delta", None, "t", "u", "i", "hé 😀"
    )


@pytest.mark.parametrize(
    ("method", "params", "ids"),
    [
        ("thread/started", {"thread": {"id": "t", "turns": [{"id": "x"}]}}, ("t", None, None)),
        ("turn/started", {"threadId": "t", "turn": {"id": "u"}}, ("t", "u", None)),
        ("turn/completed", {"threadId": "t", "turn": {"id": "u"}}, ("t", "u", None)),
        (
            "item/completed",
            {"threadId": "t", "turnId": "u", "item": {"id": "i", "type": "plan"}},
            ("t", "u", "i"),
        ),
        (
            "turn/diff/updated",
            {"threadId": "t", "turnId": "u", "itemId": "means something else"},
            ("t", "u", None),
        ),
        ("thread/status/changed", {"threadId": "t", "status": {}}, ("t", None, None)),
        ("account/updated", {"threadId": "not one"}, (None, None, None)),
        ("process/exited", {"processHandle": "p", "threadId": "no"}, (None, None, None)),
        ("warning", {"message": "of no thread", "threadId": None}, (None, None, None)),
        (
            "thread/realtime/item/started",
            {"threadId": "t", "item": {"id": "not of a turn"}},
            ("t", None, None),
        ),
        ("new/in/codex", {"threadId": "t", "turnId": "u", "itemId": "i"}, ("t", "u", "i")),
    ],
)
def test_ids_are_where_the_scope_of_the_method_says(method: str, params: object, ids: Ids) -> None:
    parsed = parse(json.dumps({"method": method, "params": params}).encode())
    assert (parsed.thread_id, parsed.turn_id, parsed.item_id) == ids
    assert parsed.kind is Kind.NOTIFICATION


@pytest.mark.parametrize(
    ("method", "params", "ids"),
    [
        (
            "item/commandExecution/requestApproval",
            {"threadId": "t", "turnId": "u", "itemId": "i"},
            ("t", "u", "i"),
        ),
        ("item/tool/call", {"threadId": "t", "turnId": "u", "callId": "c"}, ("t", "u", "c")),
        ("execCommandApproval", {"conversationId": "t", "callId": "c"}, ("t", None, None)),
        ("mcpServer/elicitation/request", {"threadId": "t", "turnId": None}, ("t", None, None)),
        ("turn/steer", {"threadId": "t", "expectedTurnId": "u"}, ("t", "u", None)),
        ("attestation/generate", {}, (None, None, None)),
        ("item/new/kind", {"threadId": "t", "turnId": "u", "itemId": "i"}, ("t", "u", "i")),
    ],
)
def test_requests_carry_id_and_scope(method: str, params: object, ids: Ids) -> None:
    parsed = parse(json.dumps({"method": method, "id": 0, "params": params}).encode())
    assert parsed == Parsed(Kind.REQUEST, method, b"0", *ids)


def test_only_known_deltas_have_text() -> None:
    line = b'{"method":"turn/diff/updated","params":{"threadId":"t","turnId":"u","delta":"x"}}'
    assert parse(line).delta is None
    assert parse(b'{"method":"item/unknown/delta","params":{"delta":"x"}}').delta is None


@pytest.mark.parametrize(
    ("line", "kind", "identifier"),
    [
        (b'{"id":1,"result":{}}', Kind.RESPONSE, b"1"),
        (b'{"id":"1","result":{}}', Kind.RESPONSE, b'"1"'),
        (b'{"jsonrpc":"2.0","id":-5,"result":null}', Kind.RESPONSE, b"-5"),
        (b' { "id" : "a\\u002db" , "result" : 1 } \r', Kind.RESPONSE, b'"a-b"'),
        (b'{"id":1,"result":{},"error":null}', Kind.RESPONSE, b"1"),
        (b'{"error":{"code":-32600,"message":"no"},"id":7}', Kind.ERROR, b"7"),
        (b'{"error":"words","id":7}', Kind.ERROR, b"7"),
        (b'{"id":9223372036854775807,"result":1}', Kind.RESPONSE, b"9223372036854775807"),
    ],
)
def test_answers_keep_the_type_of_their_id(line: bytes, kind: Kind, identifier: bytes) -> None:
    assert parse(line) == Parsed(kind, id=identifier)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"method":"a","params":{"x":"\xff"}}', Problem.NOT_UTF8),
        (b'{"method":"a","params":{"x":"\xed\xa0\x80"}}', Problem.NOT_UTF8),
        (b"", Problem.NOT_JSON),
        (b"   ", Problem.NOT_JSON),
        (b"panicked at src/main.rs", Problem.NOT_JSON),
        (b'{"method":"a"', Problem.NOT_JSON),
        (b'{"method":"a"} {"method":"b"}', Problem.NOT_JSON),
        (b'{"method":"a","params":{"x":NaN}}', Problem.NOT_JSON),
        (b'{"method":"a","params":{"x":"tab\there"}}', Problem.NOT_JSON),
        (b'\xef\xbb\xbf{"method":"a"}', Problem.NOT_JSON),
        (b'{"method":5,"x":"\\ud800', Problem.NOT_JSON),
        (b'{"method":"a","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", Problem.TOO_DEEP),
        (b'{"method":"a","params":{"x":"\\ud800"}}', Problem.LONE_SURROGATE),
        (b'{"method":"\\udc00 b"}', Problem.LONE_SURROGATE),
        (b'{"method":"a","x":"\\ud800\\ud800"}', Problem.LONE_SURROGATE),
        (b'["\\udfff"]', Problem.LONE_SURROGATE),
        (b"[1]", Problem.NOT_OBJECT),
        (b'"text"', Problem.NOT_OBJECT),
        (b"null", Problem.NOT_OBJECT),
        (b'{"id":null,"result":1}', Problem.BAD_ID),
        (b'{"id":1.5,"result":1}', Problem.BAD_ID),
        (b'{"id":1.0,"method":"a"}', Problem.BAD_ID),
        (b'{"id":true,"method":"a"}', Problem.BAD_ID),
        (b'{"id":[1],"error":{}}', Problem.BAD_ID),
        (b'{"id":9223372036854775808,"result":1}', Problem.BAD_ID),
        (b'{"id":' + b"9" * 5000 + b',"result":1}', Problem.BAD_ID),
        (b'{"result":1}', Problem.BAD_ID),
        (b"{}", Problem.NOT_A_MESSAGE),
        (b'{"id":1}', Problem.NOT_A_MESSAGE),
        (b'{"id":1,"error":null}', Problem.NOT_A_MESSAGE),
        (b'{"method":5}', Problem.NOT_A_MESSAGE),
        (b'{"method":["a"],"id":1}', Problem.NOT_A_MESSAGE),
        (b'{"method":"' + b"m" * 300 + b'"}', Problem.NOT_A_MESSAGE),
        (b'{"id":1,"method":"' + b"m" * 300 + b'"}', Problem.NOT_A_MESSAGE),
    ],
)
def test_what_is_wrong_has_a_name(line: bytes, problem: Problem) -> None:
    assert parse(line) == Parsed(Kind.MALFORMED, problem=problem)


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        (b"[1,2]", (None, None, None)),
        (b'"text"', (None, None, None)),
        (b"null", (None, None, None)),
        (b'{"threadId":5,"turnId":"u","itemId":"i"}', (None, "u", "i")),
        (b'{"threadId":"t","turnId":{"a":1},"item":{"id":"i"}}', ("t", None, "i")),
        (b'{"thread":"t","turn":["u"],"item":{"id":3}}', (None, None, None)),
    ],
)
def test_params_of_other_types_lose_only_what_cannot_be_read(params: bytes, ids: Ids) -> None:
    parsed = parse(b'{"method":"item/started","params":' + params + b"}")
    assert parsed == Parsed(Kind.NOTIFICATION, "item/started", None, *ids)


def test_a_delta_that_is_no_text_is_none() -> None:
    line = b'{"method":"item/plan/delta","params":{"threadId":"t","delta":["x"]}}'
    assert parse(line) == Parsed(Kind.NOTIFICATION, "item/plan/delta", None, "t")


def test_null_characters_are_text() -> None:
    line = b'{"method":"item/plan/delta","params":{"threadId":"t","delta":"a\\u0000b"}}'
    assert parse(line).delta == "a\x00b"


def test_parts_are_read_from_the_line_on_demand() -> None:
    assert bytes(result_of(b'{"id":1,"result":{"a": [1]}}')) == b'{"a": [1]}'
    assert bytes(params_of(b'{"method":"m","params":{"a":1}}')) == b'{"a":1}'
    assert bytes(params_of(b'{"method":"m"}')) == b"null"
    error = error_of(b'{"id":1,"error":{"code":-32001,"message":"busy","data":{"a":1}}}')
    assert (error.code, error.message, bytes(error.data)) == (-32001, "busy", b'{"a":1}')


def test_an_error_of_other_types_shows_what_can_be_read() -> None:
    error = error_of(b'{"id":1,"error":{"code":"x","message":["m"]}}')
    assert (error.code, error.message, bytes(error.data)) == (INTERNAL_ERROR, "", b"null")
    assert error_of(b'{"id":1,"error":"words"}').code == INTERNAL_ERROR


@given(st.binary() | envelopes.map(lambda message: json.dumps(message).encode()))
@example(b'{"result":"\xff"}')
@example(b"[" * 100_000)
def test_parts_of_any_bytes_are_there_or_refused(data: bytes) -> None:
    for part in (result_of, params_of, error_of):
        try:
            assert isinstance(part(data), msgspec.Raw | msgspec.Struct)
        except SupervisorError as error:
            assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017
