"""Items show what audit wants, whatever else their JSON says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.items import (
    CommandRun,
    FileChange,
    Item,
    item_from,
    item_of,
    message_text,
)

COMMAND = {
    "type": "commandExecution",
    "id": "call_1",
    "command": "/bin/bash -lc 'make test'",
    "cwd": "/srv/project",
    "processId": "77",
    "source": "agent",
    "status": "completed",
    "commandActions": [{"type": "unknown", "command": "make test"}],
    "aggregatedOutput": "ok\n",
    "exitCode": 0,
    "durationMs": 12,
}


def item(fields: dict[str, object]) -> Item:
    found = item_from(json.dumps(fields).encode())
    assert found is not None
    return found


def test_a_command_is_shown_with_its_outcome() -> None:
    body = json.dumps(COMMAND).encode()
    line = b'{"method":"item/completed","params":{"item":' + body + b',"threadId":"t"}}'
    assert item_of(line) == Item(
        id="call_1",
        kind="commandExecution",
        status="completed",
        body=body,
        command=CommandRun(
            command="/bin/bash -lc 'make test'",
            cwd="/srv/project",
            source="agent",
            exit_code=0,
            duration_ms=12,
            process_id="77",
        ),
    )


def test_file_changes_are_listed_with_kind_and_diff() -> None:
    changes = [
        {"path": "/srv/project/a", "kind": {"type": "add"}, "diff": "one\n"},
        {"path": "/srv/project/b", "kind": {"type": "update", "move_path": "/c"}, "diff": "@@"},
        {"path": "/srv/project/d", "kind": {"type": "delete"}, "diff": ""},
    ]
    assert item({"type": "fileChange", "id": "i", "changes": changes}).changes == (
        FileChange(path="/srv/project/a", kind="add", diff="one\n"),
        FileChange(path="/srv/project/b", kind="update", diff="@@", move_path="/c"),
        FileChange(path="/srv/project/d", kind="delete", diff=""),
    )


def test_a_change_that_cannot_be_read_still_counts() -> None:
    changes = [{"path": 5, "kind": "add"}, "x", None]
    nothing = FileChange(path="", kind="unknown", diff="")
    assert item({"type": "fileChange", "id": "i", "changes": changes}).changes == (nothing,) * 3


def test_a_field_of_another_type_costs_only_itself() -> None:
    shown = item({**COMMAND, "exitCode": "zero", "status": 7}).command
    assert shown is not None
    assert (shown.exit_code, shown.duration_ms, shown.cwd) == (None, 12, "/srv/project")


def test_a_user_message_tells_the_id_it_was_sent_with() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image", "url": "u"}, {"text": "b"}]
    sent = item({"type": "userMessage", "id": "i", "clientId": "run-1", "content": content})
    assert sent.client_id == "run-1"
    assert message_text(sent) == "a\nb"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"type": "agentMessage", "text": "hello"}, "hello"),
        ({"type": "plan", "text": "1. go"}, "1. go"),
        ({"type": "reasoning", "summary": ["a", "b"], "content": ["x"]}, "a\nb"),
        (COMMAND, "ok\n"),
        ({"type": "exitedReviewMode", "review": "fine"}, "fine"),
        ({"type": "contextCompaction"}, ""),
        ({"type": "agentMessage", "text": None}, ""),
        ({"type": "agentMessage", "text": 5}, ""),
        ({"type": "reasoning", "summary": "a"}, ""),
        ({"type": "userMessage", "content": {"text": "a"}}, ""),
        ({}, ""),
    ],
)
def test_text_is_what_the_item_says(fields: dict[str, object], text: str) -> None:
    assert message_text(item({"id": "i", **fields})) == text


def test_an_item_without_type_is_unknown() -> None:
    assert item({"id": "i"}).kind == "unknown"


def test_other_kinds_have_neither_command_nor_changes() -> None:
    shown = item({"type": "mcpToolCall", "id": "i", "command": "x", "changes": [{}]})
    assert (shown.command, shown.changes) == (None, ())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"params":{}}',
        b'{"params":{"item":null}}',
        b'{"params":{"item":[1]}}',
        b'{"params":{"item":{"type":"plan"}}}',
        b'{"params":{"item":{"id":5}}}',
        b'{"params":[{"item":{"id":"i"}}]}',
    ],
)
def test_no_item_with_an_id_is_no_item(line: bytes) -> None:
    assert item_of(line) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.text() | json_values,
            "type": st.sampled_from(["commandExecution", "fileChange", "userMessage", "reasoning"]),
            "changes": st.lists(json_values) | json_values,
            **dict.fromkeys(("status", "command", "cwd", "exitCode", "content"), json_values),
            **dict.fromkeys(("durationMs", "summary", "source", "clientId"), json_values),
        },
    )
)
def test_any_item_is_shown_if_it_has_an_id(fields: dict[str, object]) -> None:
    shown = item_from(json.dumps(fields).encode())
    assert (shown is not None) == isinstance(fields.get("id"), str)
    if shown is not None:
        message_text(shown)


@given(st.binary())
def test_any_bytes_are_an_item_or_none(data: bytes) -> None:
    for read in (item_of, item_from):
        assert read(data) is None or isinstance(read(data), Item)
