"""Threads in lines for people, whatever Codex sends."""

import pytest

from supervisor.cli.threads import told, when


def test_turn_is_told_in_the_order_it_happened() -> None:
    items = [
        {"type": "userMessage", "content": [{"type": "text", "text": "two\nlines"}]},
        {"type": "reasoning", "summary": ["hidden"]},
        {"type": "commandExecution", "command": "make", "exitCode": 2},
        {"type": "fileChange", "status": "completed", "changes": [{"path": "/p/a.txt"}]},
        {"type": "agentMessage", "text": "Done."},
        {"type": "somethingNew"},
    ]

    lines = list(told({"turns": [{"id": "t", "status": "completed", "items": items}]}))

    assert lines == [
        "",
        "-- turn t (completed)",
        "> two\n> lines",
        "$ make  [exit 2]",
        "~ /p/a.txt  [completed]",
        "Done.",
        "(somethingNew)",
    ]


@pytest.mark.parametrize(
    "thread",
    [
        {},
        {"turns": None},
        {"turns": [{"items": None}]},
        {"turns": [{"items": [{"type": "userMessage", "content": ["x", {"text": 1}]}]}]},
        {"turns": [{"items": [{"type": "agentMessage"}, {"type": "fileChange"}, {}]}]},
    ],
)
def test_thread_with_parts_missing_is_told_as_far_as_it_goes(thread: dict[str, object]) -> None:
    assert all(isinstance(line, str) for line in told(thread))


def test_times_are_utc_and_may_be_missing() -> None:
    assert when(0) == "1970-01-01 00:00:00"
    assert when(None) is None
