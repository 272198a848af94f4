"""The fake app-server speaks the protocol where it should, and misbehaves where it should."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.app_server import JUNK, install
from supervisor.testing.codex_config import codex_environment
from supervisor.testing.driver import Answer, BareAppServer, accept
from supervisor.testing.numbered import check_numbered

DEADLINE = 30


@asynccontextmanager
async def started(
    folder: Path, behaviour: str = "ok", answer: Answer = accept, log: Path | None = None
) -> AsyncIterator[BareAppServer]:
    codex = install(folder, behaviour, log=log)
    async with (
        asyncio.timeout(DEADLINE),
        BareAppServer.codex(codex, folder, folder, ["-c", "x=1"], answer=answer) as server,
    ):
        yield server


async def thread(server: BareAppServer) -> str:
    return str((await server.request("thread/start", {"cwd": "/x"}))["thread"]["id"])


async def raw(folder: Path, *lines: object, behaviour: str = "ok") -> list[bytes]:
    """What it writes in answer to these lines, up to its own end."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    process = await asyncio.create_subprocess_exec(
        str(install(folder, behaviour)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=codex_environment(folder),
    )
    async with asyncio.timeout(DEADLINE):
        output, _ = await process.communicate(data)
    return output.split(b"\n")


def turn(text: str) -> dict[str, Any]:
    params = {"threadId": "t", "input": [{"type": "text", "text": text}]}
    return {"id": 1, "method": "turn/start", "params": params}


async def test_a_turn_streams_numbered_text_and_ends(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        assert "/0.163.0 " in server.initialized["userAgent"]
        thread_id = await thread(server)
        for prompt, count in (("text n=20", 20), ("slow n=4 delay=0.001", 4), ("hello", 3)):
            messages = await server.turn(thread_id, prompt)
            deltas = [
                each["params"]["delta"]
                for each in messages
                if each["method"] == "item/agentMessage/delta"
            ]
            assert check_numbered("".join(deltas)) == count
        assert (await server.request("thread/loaded/list", {}))["data"] == [thread_id]


async def test_an_approval_waits_for_its_answer(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        messages = await server.turn(await thread(server), "ask")
    methods = [each["method"] for each in messages]
    assert methods.index("fake/answered") < methods.index("serverRequest/resolved")


async def test_a_hanging_turn_ends_by_interrupt_while_others_go_on(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        hanging, other = await thread(server), await thread(server)
        prompt = [{"type": "text", "text": "hang"}]
        began = await server.request("turn/start", {"threadId": hanging, "input": prompt})
        await server.turn(other, "text n=2")
        await server.request("turn/interrupt", {"threadId": hanging, "turnId": began["turn"]["id"]})
        ended = (await server.until("turn/completed"))[-1]
        assert ended["params"]["turn"]["status"] == "interrupted"


async def test_a_successor_tells_of_its_predecessors_turns(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        thread_id = await thread(server)
        await server.turn(thread_id, "text n=2")
    async with started(tmp_path) as server:
        resumed = await server.request("thread/resume", {"threadId": thread_id})
        assert resumed["thread"]["status"] == {"type": "idle"}
        read = await server.request("thread/read", {"threadId": thread_id, "includeTurns": True})
        (kept,) = read["thread"]["turns"]
        assert kept["status"] == "completed"
        assert [item["type"] for item in kept["items"]] == ["userMessage", "agentMessage"]


@pytest.mark.parametrize("name", JUNK)
async def test_each_junk_is_written_and_the_turn_ends_all_the_same(
    tmp_path: Path, name: str
) -> None:
    lines = await raw(tmp_path, turn(f"junk:{name}"))
    assert JUNK[name]("t", "", "").splitlines()[0][:12] in [line[:12] for line in lines]
    plain = await raw(tmp_path, turn("text"))
    assert len(lines) == len(plain) + 1


async def test_a_line_is_as_long_as_asked_for(tmp_path: Path) -> None:
    lines = await raw(tmp_path, turn(f"junk:long-line:{32 << 20}"))
    assert max(map(len, lines)) > 32 << 20


async def test_the_driver_reads_a_line_of_32_mebibytes(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        messages = await server.turn(await thread(server), f"junk:long-line:{32 << 20}")
    items = [each["params"]["item"] for each in messages if each["method"] == "item/completed"]
    assert max(len(item.get("text", "")) for item in items) == 32 << 20


@pytest.mark.parametrize(("text", "code"), [("exit:7", 7), ("die", -9), ("tail", -9)])
async def test_it_ends_in_the_ways_it_is_told_to(tmp_path: Path, text: str, code: int) -> None:
    async with started(tmp_path) as server:
        process = server.process
        with pytest.raises(SupervisorError) as lost:
            await server.turn("t", text)
        assert lost.value.code is ErrorCode.CONNECTION_LOST
        assert await process.wait() == code


async def test_exiting_at_once_is_a_lost_connection(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError) as lost:
        async with started(tmp_path, "exit-at-once"):
            pass
    assert lost.value.code is ErrorCode.CONNECTION_LOST
    assert "told to exit" in lost.value.message


async def test_silent_reads_and_never_answers_initialize(tmp_path: Path) -> None:
    initialize = {"id": 1, "method": "initialize", "params": {}}
    listing = {"id": 2, "method": "thread/loaded/list", "params": {}}
    answers = await raw(tmp_path, initialize, listing, behaviour="silent")
    assert [json.loads(line)["id"] for line in answers if line] == [2]


async def test_the_log_holds_every_line_read(tmp_path: Path) -> None:
    async with started(tmp_path, log=tmp_path / "log") as server:
        await server.send_raw(b"\xff junk\n")
        await server.request("thread/loaded/list", {})
    methods = (tmp_path / "log").read_bytes().splitlines()
    assert methods[2] == b"\xff junk"
    assert len(methods) == 4


async def test_a_wrong_version_shows_in_the_handshake(tmp_path: Path) -> None:
    async with started(tmp_path, "bad-version") as server:
        assert "/0.1.0 " in server.initialized["userAgent"]


@pytest.mark.parametrize(("behaviour", "version"), [("ok", "0.163.0"), ("bad-version", "0.1.0")])
def test_the_command_line_tells_the_version(tmp_path: Path, behaviour: str, version: str) -> None:
    command = [str(install(tmp_path, behaviour)), "--version"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE)
    assert said.stdout.decode() == f"codex-cli {version}\n"


def test_an_unknown_behaviour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no behaviour"):
        install(tmp_path, "nonsense")


async def test_a_command_that_is_not_there_is_codex_missing(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError) as missing:
        async with BareAppServer.codex(tmp_path / "none", tmp_path, tmp_path):
            pass
    assert missing.value.code is ErrorCode.CODEX_MISSING


async def test_a_tap_takes_lines_before_they_are_decoded(tmp_path: Path) -> None:
    tapped: list[bytes] = []

    def tap(line: bytes) -> bool:
        if b"agentMessage/delta" in line:
            tapped.append(line)
            return True
        return False

    codex = install(tmp_path)
    async with (
        asyncio.timeout(DEADLINE),
        BareAppServer.codex(codex, tmp_path, tmp_path, tap=tap) as server,
    ):
        messages = await server.turn(await thread(server), "text n=9")
    assert len(tapped) == 9
    assert "item/agentMessage/delta" not in {each["method"] for each in messages}
