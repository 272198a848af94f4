"""Prompts to scripts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.testing.directives import (
    DIRECTIVE_NAMES,
    MAXIMUM_STEPS,
    Call,
    Cut,
    DirectiveError,
    Fail,
    Patch,
    Script,
    Stall,
    Text,
    parse_script,
)


def test_text_without_a_directive_asks_for_nothing() -> None:
    assert parse_script("please don't say mock:text; it's \"fine\"") == ()
    assert parse_script("") == ()


def test_directives_stand_at_the_start_of_the_prompt_a_line_or_after_a_semicolon() -> None:
    script = parse_script(
        "mock:text n=1\nsome words\n  mock:text n=2 ; mock:text n=3;mock:text n=4"
    )
    assert [step.n for step in script if isinstance(step, Text)] == [1, 2, 3, 4]


def test_a_directive_is_found_behind_two_mebibytes_of_other_text() -> None:
    assert parse_script("é漢😀" * 250_000 + "\nmock:text n=9") == (Text(n=9),)


def test_quoted_values_hold_blanks_semicolons_quotes_and_newlines() -> None:
    (step,) = parse_script(r"""mock:exec cmd="echo \"a;b\"\n'c' \\" """)
    assert isinstance(step, Call)
    assert json.loads(step.arguments) == {"cmd": "echo \"a;b\"\n'c' \\"}
    (step,) = parse_script("""mock:tool name=lookup args='{"k": "v;w"}'""")
    assert step == Call(name="lookup", arguments='{"k": "v;w"}')


@given(st.text())
def test_any_text_survives_quoting(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert parse_script(f'mock:text msg="{quoted}" n=1') == (Text(n=1, msg=value),)


@given(st.text(alphabet="mock:txe n=1\"';\n\\ ", max_size=60))
def test_any_prompt_gives_a_script_or_a_directive_error(prompt: str) -> None:
    try:
        assert isinstance(parse_script(prompt), tuple)
    except DirectiveError as error:
        assert str(error)  # noqa: PT017 - either outcome is right


EACH: list[tuple[str, Script]] = [
    ("mock:text n=20 size=8", (Text(n=20, size=8),)),
    ("mock:text text=unicode n=2", (Text(n=2, size=12, unicode=True),)),
    ("mock:slow", (Text(n=50, delay=0.05),)),
    ("mock:slow n=5 delay=0.001", (Text(n=5, delay=0.001),)),
    ("mock:cut after=5", (Cut(text=Text(n=10), after=5, times=1),)),
    ("mock:cut after=2 n=4 times=0", (Cut(text=Text(n=4), after=2, times=0),)),
    ("mock:stall", (Stall(text=Text(n=3), after=0, times=0),)),
    (
        "mock:fail status=429 retry_after=2 times=1",
        (
            Fail(
                status=429,
                code="server_error",
                msg="scripted failure 429",
                times=1,
                retry_after=2,
            ),
        ),
    ),
    (
        "mock:fail code=insufficient_quota msg=no",
        (Fail(status=200, code="insufficient_quota", msg="no", times=0),),
    ),
    (
        'mock:patch file=a.txt text="x\\ny"',
        (Patch(patch="*** Begin Patch\n*** Add File: a.txt\n+x\n+y\n*** End Patch\n"),),
    ),
    (
        "mock:patch op=update file=a old=x text=y",
        (Patch(patch="*** Begin Patch\n*** Update File: a\n@@\n-x\n+y\n*** End Patch\n"),),
    ),
    (
        "mock:patch op=delete file=a",
        (Patch(patch="*** Begin Patch\n*** Delete File: a\n*** End Patch\n"),),
    ),
    (
        "mock:stdin session=3 chars=y",
        (Call(name="write_stdin", arguments='{"session_id":3,"chars":"y"}'),),
    ),
    (
        "mock:exec cmd=ls yield_ms=250",
        (Call(name="exec_command", arguments='{"cmd":"ls","yield_time_ms":250}'),),
    ),
]


@pytest.mark.parametrize(("prompt", "script"), EACH)
def test_each_directive_means_what_the_documentation_says(prompt: str, script: Script) -> None:
    assert parse_script(prompt) == script


def test_a_question_offers_its_options() -> None:
    (step,) = parse_script('mock:ask q="Which one?" options=A,B')
    assert isinstance(step, Call)
    (question,) = json.loads(step.arguments)["questions"]
    assert question["question"] == "Which one?"
    assert [option["label"] for option in question["options"]] == ["A", "B"]


def test_an_escalated_command_gives_a_reason() -> None:
    (step,) = parse_script('mock:exec cmd=ls escalate=1 why="For a look."')
    assert isinstance(step, Call)
    arguments = json.loads(step.arguments)
    assert arguments["sandbox_permissions"] == "require_escalated"
    assert arguments["justification"] == "For a look."


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("mock:nosuch", "no directive mock:nosuch"),
        ("mock: text", "no directive mock:;"),
        ("mock:exec", "needs cmd="),
        ("mock:text n=many", "whole number"),
        ("mock:text n=٣", "whole number"),
        ("mock:text n=1000001", "must be 0 to"),
        ("mock:text size=6", "must be 7 to"),
        ("mock:text nn=1", "does not know nn"),
        ("mock:text text=klingon", "ascii or unicode"),
        ("mock:slow delay=-1", "must be seconds"),
        ('mock:text msg="open', "cannot read"),
        ("mock:text n=1 and more", "cannot read"),
        ("mock:patch op=move file=a", "add, update or delete"),
        ("mock:fail status=99", "must be 200 to 599"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(prompt: str, said: str) -> None:
    with pytest.raises(DirectiveError, match=said):
        parse_script(prompt)


def test_endless_scripts_are_refused() -> None:
    assert len(parse_script("mock:text;" * MAXIMUM_STEPS)) == MAXIMUM_STEPS
    with pytest.raises(DirectiveError, match="more than"):
        parse_script("mock:text;" * (MAXIMUM_STEPS + 1))


def test_every_directive_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "testing-model.md").read_text()
    assert [name for name in DIRECTIVE_NAMES if f"| `mock:{name}` |" not in page] == []
