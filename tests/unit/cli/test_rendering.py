"""What a reader is shown of a turn: every word once, whatever was replayed or lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.pieces import command_line, seconds
from supervisor.cli.rendering import View

ROOT = "/home/me/project"


def event(method: str, **params: object) -> dict[str, object]:
    return {"type": "event", "cursor": "e.1", "message": {"method": method, "params": params}}


def started(kind: str, **fields: object) -> dict[str, object]:
    return event("item/started", item={"id": "i1", "type": kind, **fields})


def completed(kind: str, **fields: object) -> dict[str, object]:
    return event("item/completed", item={"id": "i1", "type": kind, **fields})


def delta(text: str, method: str = "item/agentMessage/delta") -> dict[str, object]:
    return event(method, itemId="i1", delta=text)


def shown(*payloads: dict[str, object], view: View | None = None) -> str:
    """As text: a piece that does not flow stands on a line of its own."""
    view = view or View(ROOT)
    text = ""
    for payload in payloads:
        for piece in view.take(payload):
            if piece.stream is None and text and not text.endswith("\n"):
                text += "\n"
            text += piece.text + ("" if piece.stream else "\n")
    return text


def test_a_message_flows_and_its_end_adds_nothing() -> None:
    payloads = (started("agentMessage"), delta("Hello "), delta("you."))

    assert shown(*payloads, completed("agentMessage", text="Hello you.")) == "Hello you."


@given(st.text(min_size=1), st.integers(0, 30))
def test_whatever_was_lost_of_a_message_comes_with_its_end(text: str, seen: int) -> None:
    part = text[:seen]
    text = text.replace("\r\n", "  ")
    part = part.replace("\r\n", "  ")[: len(text)]
    if not text.startswith(part):
        part = ""

    assert shown(delta(part), completed("agentMessage", text=text)) == text


def test_a_snapshot_goes_on_where_the_text_stood() -> None:
    item = {"itemId": "i1", "type": "agentMessage", "text": "one two three"}
    item["item"] = {"id": "i1", "type": "agentMessage", "text": ""}  # type: ignore[assignment]
    snapshot = {"type": "snapshot", "cursor": "e.9", "threads": [{"openItems": [item]}]}

    assert shown(delta("one "), snapshot, delta(" four")) == "one two three four"


def test_a_command_is_shown_with_its_output_and_its_exit_code() -> None:
    text = shown(
        started("commandExecution", command="/bin/bash -lc 'make test'", cwd=ROOT),
        delta("ok\r\n", "item/commandExecution/outputDelta"),
        completed("commandExecution", exitCode=2, durationMs=1500, aggregatedOutput="ok\n"),
    )

    assert text == "$ make test\nok\nexit 2  1.5 s\n"


def test_output_that_never_flowed_is_shown_at_its_end_and_bounded() -> None:
    output = "".join(f"line {n}\n" for n in range(100))

    text = shown(completed("commandExecution", command="seq", exitCode=0, aggregatedOutput=output))

    assert "… 80 lines before these\nline 80\n" in text
    assert text.endswith("line 99\nexit 0\n")


def test_a_command_elsewhere_says_where() -> None:
    text = shown(started("commandExecution", command="ls", cwd=f"{ROOT}/sub"))

    assert text == "$ ls  (in sub)\n"


def test_a_change_of_files_is_shown_as_a_short_diff() -> None:
    changes = [
        {"path": f"{ROOT}/new.py", "kind": {"type": "add"}, "diff": "a\nb\n"},
        {
            "path": f"{ROOT}/old.py",
            "kind": {"type": "update", "move_path": f"{ROOT}/moved.py"},
            "diff": "@@ -1 +1 @@\n-x\n+y\n",
        },
        {"path": "/etc/passwd", "kind": {"type": "delete"}, "diff": "root\n"},
    ]

    text = shown(completed("fileChange", status="completed", changes=changes))

    assert text == (
        "add new.py  +2 -0\n  +a\n  +b\n"
        "update old.py → moved.py  +1 -1\n  @@ -1 +1 @@\n  -x\n  +y\n"
        "delete /etc/passwd  +0 -1\n  -root\n"
    )


def test_a_long_diff_is_cut_and_says_so() -> None:
    change = {"path": "p", "kind": {"type": "add"}, "diff": "x\n" * 50}

    assert "… 30 more lines" in shown(completed("fileChange", status="completed", changes=[change]))


def test_a_diff_that_was_shown_to_be_approved_is_not_shown_again() -> None:
    view = View(ROOT)
    view.seen_whole("i1")
    change = {"path": "p", "kind": {"type": "add"}, "diff": "x\n"}

    text = shown(completed("fileChange", status="completed", changes=[change]), view=view)

    assert text == "add p  +1 -0\n"


def test_a_declined_change_is_no_change() -> None:
    change = {"path": "p", "kind": {"type": "add"}, "diff": "x\n"}

    assert shown(completed("fileChange", status="declined", changes=[change])) == (
        "not changed (declined): p\n"
    )


@pytest.mark.parametrize(
    ("turn", "more", "text"),
    [
        ({"status": "completed", "durationMs": 1234}, {}, "turn completed · 1.2 s\n"),
        (
            {"status": "failed", "error": {"message": "no", "additionalDetails": "because"}},
            {},
            "turn failed · no (because)\n",
        ),
        (
            {"status": "interrupted"},
            {"synthesised": True},
            "turn interrupted · the app-server ended in it\n",
        ),
    ],
)
def test_the_end_of_a_turn_says_how(
    turn: dict[str, object], more: dict[str, object], text: str
) -> None:
    assert shown(event("turn/completed", turn=turn, **more)) == text


def test_an_exit_that_was_asked_for_is_no_news_and_another_is() -> None:
    assert shown(event("supervisor/agentExited", kind="asked")) == ""
    assert shown(event("supervisor/agentReady")) == ""
    assert shown(
        event("supervisor/agentExited", kind="killed", detail=""), event("supervisor/agentReady")
    ) == ("the app-server ended: killed\nthe app-server is ready again\n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["item", "id", "type", "text", "changes", "turn", "error", "delta", "kind"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
METHODS = st.sampled_from(
    "item/started item/completed item/agentMessage/delta turn/completed error warning"
    " supervisor/agentExited supervisor/requestFailed".split()
)


@given(METHODS, JSON)
def test_whatever_an_agent_says_is_shown_or_left_out_but_never_an_error(
    method: str, params: Any
) -> None:
    view = View(ROOT)

    view.take({"type": "event", "cursor": "e.1", "message": {"method": method, "params": params}})
    view.take({"type": "snapshot", "cursor": "e.1", "threads": params})


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("/bin/bash -lc 'echo \"a b\"'", 'echo "a b"'),
        ("bash -c ls", "ls"),
        ("./notbash -c ls", "./notbash -c ls"),
        ("/bin/bash -lc ls extra", "/bin/bash -lc ls extra"),
        ("unended 'quote", "unended 'quote"),
    ],
)
def test_only_the_shell_codex_itself_adds_is_left_out(command: str, line: str) -> None:
    assert command_line(command) == line


def test_what_is_no_time_is_not_shown_as_one() -> None:
    assert (seconds(True), seconds("1"), seconds(None)) == ("", "", "")
