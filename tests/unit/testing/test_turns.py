"""Which steps a request asks for."""

import json
from typing import Any

import pytest

from supervisor.testing.directives import Call, Cut, Fail, Stall, Text, parse_script
from supervisor.testing.turns import (
    DONE,
    PLAIN,
    directive_script,
    read_request,
    steps_of_response,
)


def user(text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def output(kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": "c", "output": "ok"}


def body(*items: dict[str, Any]) -> bytes:
    metadata = {"thread_id": "t", "turn_id": "u", "session_id": "s"}
    return json.dumps({"model": "m", "input": items, "client_metadata": metadata}).encode()


def test_the_last_prompt_counts_and_the_outputs_after_it() -> None:
    asked = read_request(
        body(user("old"), output(), user("new"), output(), output("custom_tool_call_output"))
    )
    assert (asked.prompt, asked.answered) == ("new", 2)
    assert (asked.thread_id, asked.turn_id, asked.model) == ("t", "u", "m")


@pytest.mark.parametrize("injected", ["<environment_context>\nx", "<turn_aborted>\nx"])
def test_messages_that_codex_injects_as_the_user_are_no_prompts(injected: str) -> None:
    assert read_request(body(user("mine"), user(injected))).prompt == "mine"


@pytest.mark.parametrize("junk", [b"", b"[]", b"{", b'{"input": 5}', b'{"input": [5]}', b"\xff"])
def test_a_body_that_is_no_request_is_a_value_error(junk: bytes) -> None:
    with pytest.raises(ValueError, match="not a Responses API request"):
        read_request(junk)


def test_strange_items_are_passed_over() -> None:
    strange: list[dict[str, Any]] = [
        {"role": "user", "content": 5},
        {"role": "user", "content": [5, {"text": 6}]},
        {},
    ]
    assert read_request(body(user("mine"), {}, {"type": 5})).prompt == "mine"
    assert read_request(body(*strange)).prompt == ""


def test_without_a_directive_the_answer_is_short_and_plain() -> None:
    assert steps_of_response((), 0, 1) == (PLAIN,)


def test_each_tool_call_ends_a_response_and_the_next_goes_on_behind_it() -> None:
    script = parse_script(
        "mock:text n=1;mock:exec cmd=a;mock:text n=2;mock:text n=3;mock:exec cmd=b"
    )
    first, second = steps_of_response(script, 0, 1), steps_of_response(script, 1, 1)
    assert [type(step) for step in first] == [Text, Call]
    assert [type(step) for step in second] == [Text, Text, Call]
    assert steps_of_response(script, 2, 1) == (DONE,)
    assert steps_of_response(script, 7, 1) == (DONE,)


def test_what_misbehaves_some_times_behaves_after_them() -> None:
    script = parse_script("mock:fail times=2; mock:cut times=3 n=10; mock:text n=1")
    kinds = [
        [type(step) for step in steps_of_response(script, 0, attempt)] for attempt in range(1, 5)
    ]
    assert kinds == [[Fail], [Fail], [Cut], [Text, Text]]


def test_what_misbehaves_always_never_behaves() -> None:
    script = parse_script("mock:fail times=0")
    assert steps_of_response(script, 0, 10_000) == script


def test_a_stall_goes_on_to_the_rest_of_the_script() -> None:
    steps = steps_of_response(parse_script("mock:stall; mock:text n=1"), 0, 1)
    assert [type(step) for step in steps] == [Stall, Text]


def test_an_unreadable_directive_is_a_refusal_that_says_why() -> None:
    (step,) = directive_script("mock:exec")
    assert isinstance(step, Fail)
    assert (step.status, step.msg) == (400, "mock:exec needs cmd=")
