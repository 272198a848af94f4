"""What a call ends with: its exit status, and what it says of an error."""

import json
import os
import subprocess
import sys

import pytest
import typer

from supervisor.cli import main as program
from supervisor.cli.main import main
from supervisor.errors import ERROR_KINDS, ErrorCode, SupervisorError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A program with the one command `fail`, which raises what the test puts here."""
    errors: list[BaseException] = []
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(program._shared)

    @app.command("fail")
    def fail() -> None:
        raise errors[0]

    monkeypatch.setattr(program, "app", app)
    return errors


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_ends_with_its_status(
    raising: list[BaseException], code: ErrorCode, capfd: pytest.CaptureFixture[str]
) -> None:
    raising.append(SupervisorError(code, "the words"))

    assert main(["fail"]) == ERROR_KINDS[code].exit_status

    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == f"error: the words\nhint: {ERROR_KINDS[code].hint}\n"


def test_an_error_is_json_where_json_was_asked_for(
    raising: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    raising.append(SupervisorError(ErrorCode.TURN_ACTIVE, "busy"))

    assert main(["--output", "json", "fail"]) == os.EX_TEMPFAIL

    assert json.loads(capfd.readouterr().err)["error"]["code"] == "turn_active"


def test_an_error_inside_task_groups_is_that_error(raising: list[BaseException]) -> None:
    inner = SupervisorError(ErrorCode.FORBIDDEN, "no")
    raising.append(ExceptionGroup("tasks", [ExceptionGroup("tasks", [inner])]))

    assert main(["fail"]) == os.EX_NOPERM


def test_an_error_nobody_expected_is_told_as_internal_with_its_place(
    raising: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    raising.append(ZeroDivisionError("by zero"))

    assert main(["fail"]) == os.EX_SOFTWARE

    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "error: ZeroDivisionError: by zero" in said


def test_ctrl_c_ends_with_130(raising: list[BaseException]) -> None:
    raising.append(KeyboardInterrupt())

    assert main(["fail"]) == 130


def test_an_error_from_elsewhere_cannot_move_the_cursor(
    raising: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    raising.append(SupervisorError(ErrorCode.CODEX_REFUSED, "\x1b[2Jgone"))

    main(["fail"])

    assert "\x1b" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["run"], ["--output", "xml", "ps"], ["run", "x", "--sandbox", "none"]],
)
def test_what_is_not_understood_ends_with_64(arguments: list[str]) -> None:
    assert main(arguments) == os.EX_USAGE


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_bad_data(prompt: str) -> None:
    assert main(["run", prompt]) == os.EX_DATAERR


def test_a_prompt_that_is_not_utf8_is_bad_data(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", os.fsdecode(b"\xff")]) == os.EX_DATAERR
    assert "not UTF-8" in capfd.readouterr().err


def test_what_is_for_new_threads_is_refused_for_an_old_one() -> None:
    assert main(["run", "x", "--thread", "last", "--sandbox", "read-only"]) == os.EX_USAGE


def test_without_a_supervisor_it_says_how_to_start_one(
    tmp_path: os.PathLike[str], capfd: pytest.CaptureFixture[str]
) -> None:
    status = main(["--state-dir", os.fspath(tmp_path), "events"])

    assert status == os.EX_UNAVAILABLE
    assert "codex-supervisor up" in capfd.readouterr().err


def test_nobody_reading_is_no_error_to_talk_about() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == program.BROKEN_PIPE


@pytest.mark.parametrize(
    ("closed", "arguments", "status"),
    [
        ("<&-", ["--help"], os.EX_OK),
        ("<&-", ["run", "-"], os.EX_DATAERR),
        (">&-", ["schema"], os.EX_OK),
        ("2>&-", ["run", ""], os.EX_DATAERR),
        ("<&- >&- 2>&-", ["run", "-"], os.EX_DATAERR),
    ],
)
def test_a_closed_standard_stream_is_an_empty_one(
    closed: str, arguments: list[str], status: int
) -> None:
    script = f'exec "$@" {closed}'
    command = [sys.executable, "-m", "supervisor.cli.main", *arguments]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr


def test_pipes_that_several_tasks_found_closed_are_nothing_to_talk_about(
    raising: list[BaseException], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_unread", lambda: program.BROKEN_PIPE)
    raising.append(ExceptionGroup("tasks", [BrokenPipeError(), BrokenPipeError()]))

    assert main(["fail"]) == program.BROKEN_PIPE
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["run", "--help"]])
def test_what_only_tells_of_itself_loads_no_database_and_no_web_server(
    arguments: list[str],
) -> None:
    script = (
        "import sys; from supervisor.cli.main import main; "
        f"main({arguments!r}); "
        "print([m for m in ('sqlalchemy', 'aiohttp', 'uvloop', 'rich') if m in sys.modules], "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stderr.splitlines()[-1]
    assert "sqlalchemy" not in loaded
    assert "aiohttp" not in loaded
