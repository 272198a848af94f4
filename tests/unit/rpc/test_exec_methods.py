"""Commands in an agent's container: who may begin one, and what the agent is asked."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Command
from tests.unit.rpc.fakes import ALICE
from tests.unit.rpc.test_dispatch import P1, Bench

HERE = replace(ALICE, source="unix:uid=0,pid=7")
BEGUN = {"command": ["ls", "-l"]}
ENDED = {"execId": "run-1", "exitCode": 3, "durationMs": 40}


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_caller_is_told_what_to_run(bench: Bench) -> None:
    shown = await bench.call(P1, "beginExec", BEGUN, HERE)
    assert shown == {
        "execId": "run-1",
        "argv": ["podman", "exec", "ls", "-l"],
        "environment": {"A": "b"},
    }
    assert bench.agent.begun == [(HERE, Command(argv=["ls", "-l"], directory=Path("/projects/p1")))]
    assert bench.agent.waited_ready == 1


async def test_it_runs_in_a_directory_of_the_project_and_on_a_terminal(bench: Bench) -> None:
    params = {**BEGUN, "cwd": "sub", "terminal": "xterm-256color"}
    await bench.call(P1, "beginExec", params, HERE)
    ((_, command),) = bench.agent.begun
    assert command.directory == Path("/projects/p1/sub")
    assert command.terminal == "xterm-256color"


async def test_how_it_ended_is_handed_on(bench: Bench) -> None:
    assert await bench.call(P1, "endExec", ENDED, HERE) == {}
    assert bench.agent.ended == [("run-1", 3, 40)]


@pytest.mark.parametrize("source", ["127.0.0.1", "test", "", "xunix:uid=0"])
@pytest.mark.parametrize(("method", "params"), [("beginExec", BEGUN), ("endExec", ENDED)])
async def test_only_who_is_on_this_machine_may(
    bench: Bench, method: str, params: dict[str, Any], source: str
) -> None:
    with pytest.raises(SupervisorError) as caught:
        await bench.call(P1, method, params, replace(ALICE, source=source))
    assert caught.value.code is ErrorCode.FORBIDDEN
    assert bench.agent.begun == []
    assert bench.agent.ended == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"command": []}, ErrorCode.BAD_REQUEST),
        ({"command": ["a\0b"]}, ErrorCode.BAD_REQUEST),
        ({"command": "ls"}, ErrorCode.BAD_REQUEST),
        ({"command": ["ls"], "terminal": "a b"}, ErrorCode.BAD_REQUEST),
        ({"command": ["ls"], "terminal": "x\n"}, ErrorCode.BAD_REQUEST),
        ({"command": ["ls"], "cwd": "/etc"}, ErrorCode.PROJECT_PATH_REFUSED),
        ({"command": ["ls"], "cwd": "../other"}, ErrorCode.PROJECT_PATH_REFUSED),
    ],
)
async def test_what_cannot_be_run_is_not_begun(
    bench: Bench, params: dict[str, Any], code: ErrorCode
) -> None:
    with pytest.raises(SupervisorError) as caught:
        await bench.call(P1, "beginExec", params, HERE)
    assert caught.value.code is code
    assert bench.agent.begun == []
