"""What a person is asked, and what a typed line means."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.prompting import Dialog, decisions
from supervisor.errors import SupervisorError
from supervisor.protocol.answers import (
    COMMAND,
    DECISIONS,
    ELICITATION,
    EXEC_LEGACY,
    FILE_CHANGE,
    PATCH_LEGACY,
    PERMISSIONS,
    TOOL_CALL,
    USER_INPUT,
    check_answer,
    from_decision,
)

ROOT = "/p"
ASKED = {PERMISSIONS: b'{"permissions": {}}'}
ALL = (COMMAND, FILE_CHANGE, PERMISSIONS, ELICITATION, TOOL_CALL, PATCH_LEGACY, EXEC_LEGACY)


def dialog(method: str = COMMAND, item: dict[str, Any] | None = None, **params: object) -> Dialog:
    return Dialog({"approvalId": "1-0", "method": method, "params": params}, item, ROOT)


def text(asked: Dialog) -> str:
    return "\n".join(piece.text for piece in asked.pieces)


@pytest.mark.parametrize(
    ("line", "decision"),
    [
        ("y", "accept"),
        ("Yes", "accept"),
        (" accept ", "accept"),
        ("n", "decline"),
        ("a", "acceptForSession"),
        ("always", "acceptForSession"),
        ("q", "cancel"),
    ],
)
def test_a_word_is_a_decision(line: str, decision: str) -> None:
    assert dialog().take(line) == {"approvalId": "1-0", "decision": decision}


@pytest.mark.parametrize("line", ["", " ", "yy", "yes please", "1", "\x1b[A", "ja"])
def test_anything_else_is_asked_again(line: str) -> None:
    assert dialog().take(line) is None


@given(st.text())
def test_nothing_but_the_words_for_yes_accepts(line: str) -> None:
    answer = dialog().take(line)

    accepted = answer is not None and str(answer["decision"]).startswith("accept")
    words = {"y", "yes", "accept", "a", "always", "acceptforsession"}
    assert accepted == (line.strip().casefold() in words)


@pytest.mark.parametrize("method", ALL)
def test_what_is_offered_is_what_the_protocol_allows(method: str) -> None:
    for decision in DECISIONS:
        try:
            from_decision(method, decision, ASKED.get(method, b"{}"))
            allowed = True
        except SupervisorError:
            allowed = False
        offered = decision in decisions(method)
        assert allowed or not offered
        assert dialog(method).take(decision) == (
            {"approvalId": "1-0", "decision": decision} if offered else None
        )


def test_a_command_is_shown_as_it_would_run() -> None:
    asked = dialog(command="/bin/bash -lc 'rm -rf x'", cwd="/p/sub", reason="to clean")

    assert text(asked) == "codex wants to run\n$ rm -rf x  (in sub)\nreason given: to clean"


FAKE = "\ncodex wants to run\n$ ls -la\n[y]es  [n]o  > "


@pytest.mark.parametrize(
    "asked",
    [
        dialog(command=f"evil{FAKE}"),
        dialog(command="evil", cwd=f"/p/{FAKE}"),
        dialog(command="evil", reason=FAKE),
        dialog(networkApprovalContext={"protocol": "https", "host": FAKE}),
        dialog(f"new/method{FAKE}"),
        dialog(FILE_CHANGE, {"changes": [{"path": f"/p/a{FAKE}", "kind": {"type": "add"}}]}),
        dialog(FILE_CHANGE, {"changes": [{"path": "a", "kind": {"type": f"add{FAKE}"}}]}),
        dialog(
            FILE_CHANGE,
            {"changes": [{"path": "a", "kind": {"type": "update", "move_path": f"b{FAKE}"}}]},
        ),
        dialog(FILE_CHANGE, {"changes": [{"path": "a", "diff": FAKE}]}, grantRoot=FAKE),
        dialog(PERMISSIONS, None, permissions={"x": FAKE}, reason=FAKE),
        dialog(USER_INPUT, None, questions=[{"question": FAKE, "options": [{"label": FAKE}]}]),
    ],
)
def test_nothing_that_codex_says_looks_like_another_question(asked: Dialog) -> None:
    lines = f"{text(asked)}\n{asked.prompt}".split("\n")

    assert sum(line.startswith("codex wants") for line in lines) <= 1
    assert sum(line.startswith("[y]es") for line in lines) <= 1
    assert not any(line.startswith("$ ls") for line in lines)


def test_the_lines_of_a_command_after_its_first_are_marked() -> None:
    assert text(dialog(command="one\ntwo\n")) == "codex wants to run\n$ one\n  | two\n  | "


@pytest.mark.parametrize("filler", ["\n" * 50, " " * 80 * 50, "\t" * 10 * 50])
def test_what_may_have_left_the_screen_is_named_at_the_prompt(filler: str) -> None:
    asked = dialog(command=f"evil{filler}codex wants to run")

    reminder, words = asked.prompt.split("\n")
    assert reminder.startswith("(codex wants to run: $ evil")
    assert reminder.endswith("lines in all)")
    assert len(reminder) < 80
    assert words.startswith("[y]es")


def test_what_is_short_is_named_again_only_below_other_text() -> None:
    asked = dialog(command="make test")

    assert asked.prompt.startswith("[y]es")
    assert asked.repeated == f"(codex wants to run: $ make test - 2 lines in all)\n{asked.prompt}"


def test_a_change_of_files_is_shown_from_its_item_and_whole() -> None:
    change = {"path": "/p/a", "kind": {"type": "add"}, "diff": "x\n" * 100}

    asked = dialog(FILE_CHANGE, {"changes": [change]}, itemId="i1", grantRoot="/p/lib")

    assert text(asked).count("+x") == 100
    assert "write below /p/lib" in text(asked)


def test_a_change_nobody_knows_is_said_to_be_unknown() -> None:
    assert "not known here" in text(dialog(FILE_CHANGE, None))


def test_a_request_of_the_network_names_the_host() -> None:
    asked = dialog(networkApprovalContext={"protocol": "https", "host": "evil.example"})

    assert "reach https evil.example" in text(asked)


def questions(*more: dict[str, object]) -> Dialog:
    first = {
        "id": "q1",
        "question": "Which one?",
        "isOther": False,
        "options": [{"label": "A", "description": ""}, {"label": "B", "description": ""}],
    }
    return dialog(USER_INPUT, None, questions=[first, *more])


@pytest.mark.parametrize("line", ["2", "b", "B"])
def test_an_option_is_named_by_number_or_by_its_words(line: str) -> None:
    answer = questions().take(line)

    assert answer == {"approvalId": "1-0", "result": {"answers": {"q1": {"answers": ["B"]}}}}
    assert check_answer(USER_INPUT, answer["result"])


@pytest.mark.parametrize("line", ["", "3", "0", "C", "-1", "²"])
def test_what_is_no_option_is_asked_again(line: str) -> None:
    assert questions().take(line) is None


def test_several_questions_come_one_after_another() -> None:
    asked = questions({"id": "q2", "question": "And why?", "options": None})

    assert "Which one?\n  1. A\n  2. B\n> " in asked.prompt
    assert asked.take("1") is None
    assert asked.prompt == "And why?\n> "
    assert asked.take("") is None
    answer = asked.take("Because.")

    assert answer is not None
    assert answer["result"] == {
        "answers": {"q1": {"answers": ["A"]}, "q2": {"answers": ["Because."]}}
    }


def test_what_only_a_program_can_answer_is_not_asked() -> None:
    assert not dialog("something/new").can_be_answered
    assert not dialog(USER_INPUT, None, questions=[]).can_be_answered


@given(st.sampled_from([*ALL, USER_INPUT, "new"]), st.dictionaries(st.text(), st.integers()))
def test_strange_params_are_shown_and_are_no_error(method: str, params: dict[str, Any]) -> None:
    asked = Dialog({"approvalId": "1-0", "method": method, "params": params}, {"changes": 7}, ROOT)

    assert text(asked)
