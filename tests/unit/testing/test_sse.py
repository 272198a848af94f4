"""The model's events are what the Responses API says, and say what the script says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.testing import sse
from supervisor.testing.directives import Call, Patch, Text


def decoded(data: bytes) -> list[dict[str, Any]]:
    events = []
    for block in data.decode().removesuffix("\n\n").split("\n\n"):
        name, _, payload = block.partition("\n")
        events.append(json.loads(payload.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@pytest.mark.parametrize(
    "text",
    [
        Text(n=5),
        Text(n=5, size=30),
        Text(n=5, size=12, unicode=True),
        Text(n=4, msg='quo"te\\ \n😀 and more'),
        Text(n=50, msg="short"),
    ],
)
def test_deltas_join_to_the_whole_message(text: Text) -> None:
    events = decoded(b"".join(sse.deltas("msg_1", text)))
    assert "".join(event["delta"] for event in events) == text.whole()
    assert {event["item_id"] for event in events} == {"msg_1"}
    assert len(events) <= text.n


@given(st.text(min_size=1), st.integers(0, 20))
def test_a_cut_message_loses_nothing(message: str, n: int) -> None:
    parts = list(sse.cut(message, n))
    assert "".join(parts) == message
    assert len(parts) <= max(1, n)


def test_the_first_deltas_and_the_rest_are_the_whole() -> None:
    text = Text(n=9)
    first, rest = sse.deltas("m", text, 4), sse.deltas("m", text, skip=4)
    assert b"".join(first) + b"".join(rest) == b"".join(sse.deltas("m", text))


@given(st.lists(st.binary(min_size=1), max_size=30), st.integers(1, 10))
def test_batches_keep_every_byte_in_order(events: list[bytes], size: int) -> None:
    assert b"".join(sse.batched(iter(events), size)) == b"".join(events)


def test_tool_calls_carry_their_arguments() -> None:
    (called,) = decoded(sse.tool_call(Call(name="f", arguments='{"a":1}'), "i", "c"))
    assert called["item"]["arguments"] == '{"a":1}'
    assert (called["item"]["type"], called["item"]["call_id"]) == ("function_call", "c")
    (patched,) = decoded(sse.tool_call(Patch(patch="*** Begin"), "i", "c"))
    assert patched["item"]["input"] == "*** Begin"
    assert (patched["item"]["type"], patched["item"]["name"]) == ("custom_tool_call", "apply_patch")
