"""`logs`: the newest generation's file, its end, and what is added to it."""

import json
import os
from pathlib import Path

import pytest

from supervisor.cli.logs import _added
from supervisor.cli.main import main


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for generation, text in (("2", "old\n"), ("10", "one\ntwo\n\x1b[31mthree\n")):
        directory = tmp_path / "projects/p" / generation
        directory.mkdir(parents=True)
        (directory / "stderr").write_text(text)
    return tmp_path


def test_end_of_the_newest_generation_is_shown_and_commands_no_terminal(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "p", "-n", "2", "--state-dir", str(state)]) == 0
    assert capfd.readouterr().out == "two\n\\x1b[31mthree\n"


def test_no_line_is_shown_if_none_is_asked_for(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "p", "-n", "0", "--state-dir", str(state)]) == 0
    assert capfd.readouterr().out == ""


def test_programs_get_the_lines_and_where_they_are_from(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "p", "--state-dir", str(state), "--output", "json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown == {
        "file": str(state / "projects/p/10/stderr"),
        "lines": ["one", "two", "\x1b[31mthree"],
    }


def test_background_supervisors_log_is_shown(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (state / "background.log").write_text("it began\n")
    assert main(["logs", "--supervisor", "--state-dir", str(state)]) == 0
    assert capfd.readouterr().out == "it began\n"


@pytest.mark.parametrize("what", ["nobody", "--supervisor"])
def test_log_that_is_not_there_is_an_error_with_a_hint(
    state: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    assert main(["logs", what, "--state-dir", str(state)]) == os.EX_USAGE
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "hint: " in shown.err


def test_what_is_added_is_read_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n")
    assert _added(log, 0) == (b"one\n", 4)
    assert _added(log, 4) == (b"", 4)
    with log.open("ab") as file:
        file.write(b"two\n")
    assert _added(log, 4) == (b"two\n", 8)


def test_file_that_was_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"new\n")
    assert _added(log, 100) == (b"new\n", 4)


def test_file_that_is_gone_adds_nothing(tmp_path: Path) -> None:
    assert _added(tmp_path / "none", 3) == (b"", 3)
    assert _added(None, 3) == (b"", 3)
