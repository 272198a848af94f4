"""Text for a terminal: nothing in it moves a cursor or shows in another order."""

import os
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import output
from supervisor.cli.output import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("yes\rno", "yes\\x0dno"),
        ("\x9b31m", "\\x9b31m"),
        ("rm \u202efdp.txt", "rm \\u202efdp.txt"),
        ("\ud800", "\\ud800"),
        ("héllo 日本 👍", "héllo 日本 👍"),
    ],
)
def test_plain_shows_what_it_takes_away(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text())
def test_plain_leaves_no_control_character(text: str) -> None:
    left = {unicodedata.category(c) for c in plain(text) if c not in "\n\t"}

    assert not left & {"Cc", "Cs"}


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Cf"])))
def test_plain_leaves_everything_else_alone(text: str) -> None:
    assert plain(text) == text


def test_a_line_is_one_line_and_takes_a_lone_surrogate(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    output.line({"text": "a\nb \ud800"})

    assert capfdbinary.readouterr().out.count(b"\n") == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_console_nobody_reads_raises_that(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, stream, os.fdopen(write, "w"))
    console = output.console() if stream == "stdout" else output.errors()

    with pytest.raises(BrokenPipeError):
        console.out("said")

    # What is buffered still would fail once more when the file is thrown away.
    os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    getattr(sys, stream).close()


def test_quoted_words_are_those_a_shell_gives_back() -> None:
    assert output.quoted(["run", "-C", "/a b", "it's"]) == "run -C '/a b' 'it'\"'\"'s'"
