"""`codex-supervisor up` with the real codex: what it prints, who may come in, how it ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from supervisor.api.dialing import connect_websocket
from supervisor.errors import SupervisorError
from supervisor.settings import environment
from tests.rig import Rig, rig
from tests.terminals import DEADLINE, command, completed, terminal

pytestmark = pytest.mark.codex


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as it:
        yield it


def up(made: Rig, *options: str) -> list[str]:
    return ["up", str(made.project_dir), "--listen-port", "0", *options]


def env(made: Rig) -> dict[str, str]:
    return {
        "CODEX_HOME": str(made.codex_home),
        "CODEX_SUPERVISOR_STATE_DIR": str(made.state_dir),
    }


@asynccontextmanager
async def serving(
    made: Rig, *options: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, object]]]:
    """`up --output json` with pipes, and what it printed when it served."""
    with (made.root / "up.err").open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command(*up(made, *options), "--output", "json"),
            env={**environment(), **env(made)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            yield process, json.loads(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_person_gets_a_url_and_a_token_that_works_and_nobody_else_does(made: Rig) -> None:
    async with terminal(env(made), *up(made)) as shown:
        await shown.expect("Ctrl-C ends it.")
        [url] = re.findall(r"ws://\S+", shown.shown)
        [token] = re.findall(r"^token +(\S+)", shown.shown, re.MULTILINE)
        async with connect_websocket(url, token) as client:
            listed = await client.call(None, "listProjects")
        assert isinstance(listed, dict)
        assert [one["path"] for one in listed["projects"]] == [str(made.project_dir)]
        with pytest.raises(SupervisorError, match="401"):
            async with connect_websocket(url, token[:-1] + "!"):
                pass
        shown.ctrl_c()
        await shown.expect("stopping the agents")
        assert await shown.ended() == 0
    assert made.processes() == []


async def test_the_token_is_printed_to_no_file(made: Rig) -> None:
    async with serving(made) as (_, printed):
        assert printed["tokenFile"] == str(made.state_dir / "token")
        token = (made.state_dir / "token").read_text().strip()
        assert token not in json.dumps(printed)
        assert token not in (made.root / "up.err").read_text()


async def test_a_second_one_names_the_first(made: Rig) -> None:
    async with serving(made) as (first, _):
        second = await asyncio.to_thread(completed, env(made), *up(made))
        assert second.returncode == os.EX_UNAVAILABLE
        assert f"pid {first.pid}" in second.stderr.decode()
        assert first.returncode is None


async def test_sigterm_ends_it_and_its_app_server(made: Rig) -> None:
    async with serving(made) as (process, printed):
        pid = await app_server(made)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert not psutil.pid_exists(pid)
    assert made.processes() == []
    assert not Path(str(printed["socket"])).exists()


async def test_closing_its_terminal_ends_it_and_its_app_server(made: Rig) -> None:
    async with terminal(env(made), *up(made)) as shown:
        await shown.expect("Ctrl-C ends it.")
        pid = await app_server(made)
        shown.hang_up()
        assert await shown.ended() == 0
    assert not psutil.pid_exists(pid)
    assert made.processes() == []


async def test_more_than_one_hang_up_is_one(made: Rig) -> None:
    async with serving(made) as (process, _):
        pid = await app_server(made)
        while psutil.pid_exists(pid):
            process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.01)
        assert await process.wait() == 0
    assert made.processes() == []


async def test_under_nohup_a_hang_up_is_nothing(made: Rig) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with serving(made) as (process, _):
            process.send_signal(signal.SIGHUP)
            await app_server(made)
            assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_what_is_to_be_kept_is_found_again_by_the_next_one(made: Rig) -> None:
    async with serving(made, "--on-shutdown", "keep") as (process, _):
        pid = await app_server(made)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert psutil.pid_exists(pid)
    async with serving(made) as (process, _):
        assert await app_server(made) == pid
        process.send_signal(signal.SIGTERM)
        await process.wait()
    assert made.processes() == []


async def test_it_serves_without_a_codex_and_says_what_is_missing(made: Rig) -> None:
    async with terminal(env(made), *up(made, "--codex-bin", "/nowhere/codex")) as shown:
        await shown.expect("Ctrl-C ends it.")
        await shown.expect("there is no codex to run at /nowhere/codex")
        status = await asyncio.to_thread(
            completed, env(made), "status", str(made.project_dir), "--output", "json"
        )
        assert b"quarantined" in status.stdout
        shown.ctrl_c()
        assert await shown.ended() == 0


async def test_a_flag_is_stronger_than_the_environment_and_a_wrong_one_is_named(made: Rig) -> None:
    wrong = await asyncio.to_thread(
        completed,
        {**env(made), "CODEX_SUPERVISOR_LISTEN_PORT": "7"},
        *("up", str(made.project_dir), "--listen-port", "70000"),
    )
    assert wrong.returncode == os.EX_CONFIG
    assert b"listen_port" in wrong.stderr


async def app_server(made: Rig) -> int:
    """The pid of the project's app-server, once it is ready."""
    async with made.dial() as client:
        project = await made.open(client)
        await client.call(project, "pingProject")
        status = await client.call(project, "projectStatus")
        assert isinstance(status, dict)
        return int(status["pid"])
