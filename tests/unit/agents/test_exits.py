"""How an app-server ended, in the words that people and the restart policy get."""

import pytest

from supervisor.agents.exits import OVERRUN, STDERR_SHOWN, explain
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.lifecycle.restart import ExitKind
from supervisor.ports.runtime import Exit


def told(exit_: Exit, failure: ErrorCode | None = None, **given: object) -> tuple[ExitKind, str]:
    facts: dict[str, object] = {"asked": False, "ready": False, "overrun": False, "stderr": ""}
    error = None if failure is None else SupervisorError(failure, "what went wrong")
    return explain(exit_, error, **(facts | given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exit_", "given", "kind", "words"),
    [
        (Exit(code=0), {"asked": True}, ExitKind.ASKED, "exit code 0"),
        (Exit(code=3), {"ready": True}, ExitKind.CRASHED, "exit code 3"),
        (Exit(signal=9), {"ready": True}, ExitKind.KILLED, "signal 9"),
        (Exit(code=7), {}, ExitKind.START_FAILED, "exit code 7"),
        (Exit(signal=9), {"failure": ErrorCode.CODEX_TIMEOUT}, ExitKind.START_TIMEOUT, "what"),
        (
            Exit(signal=9),
            {"failure": ErrorCode.CODEX_TIMEOUT, "ready": True},
            ExitKind.UNRESPONSIVE,
            "what",
        ),
        (Exit(), {"failure": ErrorCode.CODEX_MISSING}, ExitKind.CODEX_MISSING, "what"),
        (Exit(signal=9), {"failure": ErrorCode.CODEX_VERSION}, ExitKind.CODEX_VERSION, "what"),
        (Exit(), {"failure": ErrorCode.AGENT_START_FAILED}, ExitKind.START_FAILED, "what"),
        (Exit(signal=9), {"overrun": True, "ready": True}, ExitKind.KILLED, OVERRUN),
        (Exit(signal=9, oom=True), {"ready": True}, ExitKind.OOM, "signal 9, its memory limit"),
        (Exit(), {"failure": ErrorCode.PROJECT_PATH_REFUSED}, ExitKind.BAD_CONFIG, "what"),
        (Exit(), {"failure": ErrorCode.STATE_DIRECTORY_UNSAFE}, ExitKind.BAD_CONFIG, "what"),
        (Exit(), {"failure": ErrorCode.SETTINGS_INVALID}, ExitKind.BAD_CONFIG, "what"),
    ],
)
def test_an_end_has_a_kind_and_words(
    exit_: Exit, given: dict[str, object], kind: ExitKind, words: str
) -> None:
    found, detail = told(exit_, **given)  # type: ignore[arg-type]
    assert found is kind
    assert detail.startswith(words)


def test_stderr_is_shown_of_what_never_ran_a_turn_and_only_its_end() -> None:
    stderr = "x" * 5000 + "Error: no such thing"
    assert told(Exit(code=7), stderr=stderr)[1].endswith("no such thing")
    assert len(told(Exit(code=7), stderr=stderr)[1]) < STDERR_SHOWN + 50
    assert told(Exit(code=7), stderr="a prompt", ready=True)[1] == "exit code 7"
