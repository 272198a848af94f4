"""What the answer to the probe says of the inner wall, and what follows from it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.agents.inner_wall import METHOD, probe, understood
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.inner_wall import (
    NOT_WANTED,
    InnerWall,
    WallState,
    Wish,
    check,
    goes_without,
)

DIRECTORY = Path("/work")
HOLDS = InnerWall(state=WallState.HOLDS)
MISSING = InnerWall(state=WallState.MISSING, reason="bwrap: no")
UNKNOWN = InnerWall(state=WallState.UNKNOWN, reason="no answer")
BWRAP = "bwrap: Creating new namespace failed: Operation not permitted\n"


def answer(code: int = 0, out: str = "", err: str = "") -> bytes:
    return json.dumps({"exitCode": code, "stdout": out, "stderr": err}).encode()


class Codex:
    """Answers once, or fails."""

    def __init__(self, said: bytes | SupervisorError) -> None:
        self.said = said
        self.asked: list[dict[str, Any]] = []

    async def ask(
        self, method: str, params: object, *, timeout: float, own: bool = False
    ) -> msgspec.Raw:
        assert own, "it goes before clients"
        assert method == METHOD
        self.asked.append(json.loads(msgspec.json.encode(params)))
        if isinstance(self.said, SupervisorError):
            raise self.said
        return msgspec.Raw(self.said)


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (answer(0, "refused\n"), WallState.HOLDS, ""),
        (answer(0, "wrote\n"), WallState.MISSING, "could write"),
        (answer(1, "", BWRAP), WallState.MISSING, "Operation not permitted"),
        (answer(1, "", "bwrap: execvp sh: No such file or directory\n"), WallState.UNKNOWN, "sh"),
        (answer(124, "", ""), WallState.UNKNOWN, "exit code 124"),
        (answer(1, "refused\n"), WallState.UNKNOWN, "refused"),
        (answer(0, "hello\n"), WallState.UNKNOWN, "hello"),
        (b'{"processId":1}', WallState.UNKNOWN, "something else"),
        (b'{"exitCode":"0"}', WallState.UNKNOWN, "something else"),
        (b"null", WallState.UNKNOWN, "something else"),
    ],
)
async def test_each_answer_is_told_apart(said: bytes, state: WallState, reason: str) -> None:
    wall = await probe(Codex(said), DIRECTORY, timeout=5)
    assert wall.state is state
    assert reason in wall.reason


def test_a_reason_is_one_line_that_can_be_shown() -> None:
    wall = understood(answer(1, "", "bwrap: \x1b[31ma\nb\t" + "c" * 5000))
    assert wall.reason.startswith("bwrap: ?[31ma b ccc")
    assert len(wall.reason) == 300


@pytest.mark.parametrize("code", [ErrorCode.CODEX_TIMEOUT, ErrorCode.CODEX_REFUSED])
async def test_no_answer_is_not_taken_for_one(code: ErrorCode) -> None:
    wall = await probe(Codex(SupervisorError(code, "so it is")), DIRECTORY, timeout=5)
    assert wall == InnerWall(state=WallState.UNKNOWN, reason="so it is")


async def test_an_app_server_that_ends_meanwhile_is_no_finding() -> None:
    gone = SupervisorError(ErrorCode.AGENT_RESTARTED, "it ended first")
    with pytest.raises(SupervisorError) as caught:
        await probe(Codex(gone), DIRECTORY, timeout=5)
    assert caught.value is gone


async def test_the_command_may_only_read_and_ends_before_the_question_does() -> None:
    codex = Codex(answer(0, "refused\n"))
    await probe(codex, DIRECTORY, timeout=5)
    (asked,) = codex.asked
    assert asked["sandboxPolicy"] == {"type": "readOnly"}
    assert asked["cwd"] == "/work"
    assert 0 < asked["timeoutMs"] < 5000


@pytest.mark.parametrize("wall", [HOLDS, MISSING, UNKNOWN, NOT_WANTED], ids=lambda w: w.state)
@pytest.mark.parametrize("wish", ["prefer", "off"])
def test_what_is_not_required_stops_nothing(wish: Wish, wall: InnerWall) -> None:
    check(wish, wall)


@pytest.mark.parametrize("wall", [MISSING, UNKNOWN, NOT_WANTED], ids=lambda w: w.state)
def test_a_required_wall_must_be_known_to_hold(wall: InnerWall) -> None:
    check("require", HOLDS)
    with pytest.raises(SupervisorError) as caught:
        check("require", wall)
    assert caught.value.code is ErrorCode.INNER_WALL_MISSING
    assert not caught.value.retryable
    assert wall.reason in caught.value.message


@pytest.mark.parametrize(
    ("wish", "wall", "without"),
    [
        ("prefer", MISSING, True),
        ("prefer", UNKNOWN, False),
        ("prefer", HOLDS, False),
        ("require", MISSING, False),
    ],
    ids=str,
)
def test_only_a_preferred_wall_known_to_be_missing_is_done_without(
    wish: Wish, wall: InnerWall, without: bool
) -> None:
    assert goes_without(wish, wall) is without
