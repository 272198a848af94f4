"""The commands that look and steer, each a call of its own, against a real codex."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import codex_cli_bin
import pytest

from supervisor.settings import environment
from tests.rig import Rig, rig
from tests.talk import Talk, talk
from tests.terminals import DEADLINE, command, completed

pytestmark = pytest.mark.codex

PROMPT = "say it\nmock:exec cmd='echo run > made.txt'; mock:text msg='Well done.'"


class Desk:
    """Where somebody types commands about one project."""

    def __init__(self, made: Rig, talking: Talk) -> None:
        self.rig = made
        self.talk = talking
        self.project = talking.project
        self.path = str(made.project_dir)
        self.env = environment_of(made)

    async def typed(self, *arguments: str, status: int = 0) -> str:
        """What a call prints."""
        ended = await asyncio.to_thread(completed, self.env, *arguments)
        assert ended.returncode == status, ended.stderr.decode()
        return ended.stdout.decode()

    async def json(self, *arguments: str) -> Any:
        """What a call gives to programs."""
        return json.loads(await self.typed("--output", "json", *arguments))

    async def failed(self, *arguments: str, status: int) -> dict[str, Any]:
        """The error of a call."""
        ended = await asyncio.to_thread(completed, self.env, "--output", "json", *arguments)
        assert ended.returncode == status, ended.stderr.decode()
        assert ended.stdout == b""
        error: dict[str, Any] = json.loads(ended.stderr)["error"]
        return error

    async def until(self, state: str) -> dict[str, Any]:
        """Wait for a state; the project's status then."""
        async with asyncio.timeout(DEADLINE):
            while (shown := await self.talk.call("projectStatus"))["state"] != state:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return shown


def environment_of(made: Rig) -> dict[str, str]:
    return {
        "CODEX_HOME": str(made.codex_home),
        "CODEX_SUPERVISOR_STATE_DIR": str(made.state_dir),
        "CODEX_SUPERVISOR_LISTEN_PORT": "0",
    }


@asynccontextmanager
async def desk_at(root: Path, **settings: object) -> AsyncIterator[Desk]:
    async with rig(root, **settings) as made:
        await made.start()
        async with talk(made) as talking:
            yield Desk(made, talking)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_at(tmp_path) as made:
        yield made


async def test_project_is_named_by_its_id_its_directory_or_the_working_directory(
    desk: Desk,
) -> None:
    await desk.talk.ready()
    (one,) = (await desk.json("ps"))["projects"]
    assert one["project"] == desk.project
    assert one["path"] == desk.path
    for name in (desk.project, desk.path, f"{desk.path}/../project"):
        assert (await desk.json("status", name))["project"] == desk.project
    here = await asyncio.to_thread(
        subprocess.run,
        command("--output", "json", "status"),
        env={**environment(), **desk.env},
        cwd=desk.path,
        capture_output=True,
        check=True,
    )
    assert json.loads(here.stdout)["project"] == desk.project


async def test_tables_say_what_is_needed(desk: Desk) -> None:
    status = await desk.talk.ready()
    table = await desk.typed("ps")
    assert desk.project in table
    assert "ready" in table
    facts = await desk.typed("status", desk.project)
    for part in ("ready", str(status["pid"]), desk.rig.addresses["host"], "trusted"):
        assert part in facts


async def test_unknown_project_and_missing_supervisor_are_told_apart(
    desk: Desk, tmp_path: Path
) -> None:
    unknown = await desk.failed("status", "nobody", status=os.EX_USAGE)
    assert unknown["code"] == "project_unknown"
    gone = await desk.failed("ps", "--state-dir", str(tmp_path / "other"), status=os.EX_UNAVAILABLE)
    assert gone["code"] == "supervisor_unreachable"
    assert "codex-supervisor up" in gone["hint"]
    assert not (tmp_path / "other").exists()


async def test_stopped_project_stays_stopped_until_it_is_restarted(desk: Desk) -> None:
    before = await desk.talk.ready()
    assert (await desk.json("stop", desk.project))["state"] == "stopped"
    shown = await desk.until("stopped")
    assert shown["pid"] is None
    await desk.json("restart", desk.project)
    after = await desk.talk.ready()
    assert after["generation"] > before["generation"]


async def test_supervisor_is_stopped_and_its_projects_come_back_with_the_next(desk: Desk) -> None:
    before = await desk.talk.ready()
    assert (await desk.json("stop", "--supervisor"))["pid"] == desk.rig.process.pid
    assert desk.rig.reap() == 0
    assert desk.rig.processes() == []
    gone = await desk.failed("stop", "--supervisor", status=os.EX_UNAVAILABLE)
    assert gone["code"] == "supervisor_unreachable"
    await desk.rig.start()
    assert (await desk.talk.ready())["generation"] > before["generation"]


async def test_quarantine_is_explained_and_released(tmp_path: Path) -> None:
    fake = tmp_path / "fake-codex"
    fake.write_text("#!/bin/sh\necho the reason why >&2\nexit 9\n")
    fake.chmod(0o755)
    restart = {"base_seconds": 0.01, "intensity": 1}
    async with desk_at(tmp_path, codex_bin=str(fake), restart=restart) as desk:
        await desk.until("quarantined")

        said = await asyncio.to_thread(completed, desk.env, "status", desk.project)
        assert b"quarantined" in said.stdout
        assert b"codex-supervisor restart" in said.stderr
        assert "the reason why" in await desk.typed("logs", desk.project)
        doctor = await desk.json("doctor")
        found = {one["check"]: one for one in doctor["checks"]}
        assert found["projects"]["verdict"] == "warn"
        assert desk.project in found["projects"]["says"]

        fake.write_text(f'#!/bin/sh\nexec {codex_cli_bin.bundled_codex_path()} "$@"\n')
        await desk.typed("restart", desk.path)
        await desk.until("ready")


async def test_directory_that_was_never_opened_is_trusted_and_untrusted(
    desk: Desk, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert (await desk.json("trust", str(other)))["trusted"] is True
    assert (await desk.json("status", str(other)))["trusted"] is True
    assert (await desk.json("untrust", str(other)))["trusted"] is False
    assert (await desk.json("status", desk.project))["trusted"] is False
    kinds = [r["kind"] for r in (await desk.json("audit", "-p", str(other)))["records"]]
    assert kinds.index("project.trusted") < kinds.index("project.untrusted")


async def test_threads_are_listed_read_named_and_put_away(desk: Desk) -> None:
    project = ("-p", desk.project)
    assert (await desk.json("threads", *project))["threads"] == []
    bare, thread = await desk.talk.thread(), await desk.talk.thread()
    await desk.talk.run(thread, PROMPT)
    assert bare in await desk.typed("threads", "read", bare, *project)

    (one,) = (await desk.json("threads", *project))["threads"]
    assert one["id"] == thread
    await desk.typed("threads", "name", thread, "My thread", *project)
    table = await desk.typed("threads", *project)
    assert "My thread" in table
    assert "say it" in table
    read = await desk.typed("threads", "read", thread, *project)
    for part in ("My thread", "> say it", "Well done.", "-- turn", "(completed)"):
        assert part in read
    shown = await desk.json("threads", "read", thread, *project)
    assert shown["turns"][0]["status"] == "completed"

    await desk.typed("threads", "archive", thread, *project)
    assert (await desk.json("threads", "list", *project))["threads"] == []
    (away,) = (await desk.json("threads", "list", "--archived", *project))["threads"]
    assert away["id"] == thread
    error = await desk.failed("threads", "read", "no-such-thread", *project, status=os.EX_USAGE)
    assert error["code"] == "thread_unknown"


async def test_audit_is_listed_filtered_and_verified(desk: Desk) -> None:
    project = ("-p", desk.project)
    thread = await desk.talk.thread()
    await desk.talk.run(thread, PROMPT)

    every = (await desk.json("audit", *project))["records"]
    assert [r["seq"] for r in every] == list(range(1, len(every) + 1))
    newest = (await desk.json("audit", "--limit", "3", *project))["records"]
    assert newest == every[-3:]
    after = (await desk.json("audit", "list", "--after", "2", "-n", "2", *project))["records"]
    assert after == every[2:4]
    runs = (await desk.json("audit", "--kind", "command", *project))["records"]
    assert [(r["kind"], r["phase"]) for r in runs] == [
        ("command.run", "intent"),
        ("command.run", "outcome"),
    ]
    mine = (await desk.json("audit", "--thread", thread, *project))["records"]
    assert {r["threadId"] for r in mine} == {thread}
    table = await desk.typed("audit", *project)
    for part in ("echo run > made.txt", "exit 0", "turn.ended", "unix:uid="):
        assert part in table

    found = await desk.json("audit", "verify", *project)
    assert found["ok"]
    assert found["checked"] == len(every)
    assert found["head"] in await desk.typed("audit", "verify", *project)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE audit SET principal = 'somebody' WHERE seq = 3", "edited at record 3"),
        ("DELETE FROM audit WHERE seq = 2", "gap at record 3"),
        # The successor's own records follow the cut, so that it is a gap.
        ("DELETE FROM audit WHERE seq >= 4", "the 3 before it are good"),
    ],
    ids=["edited", "gap", "cut"],
)
async def test_audit_log_that_was_changed_is_found_out(
    tmp_path: Path, statement: str, problem: str
) -> None:
    async with rig(tmp_path) as made:
        await made.start()
        async with talk(made) as talking:
            await talking.ready()
            await talking.thread()
        made.signal(signal.SIGTERM)
        with closing(sqlite3.connect(made.state_dir / "supervisor.db")) as database:
            database.execute(statement)
            database.commit()
        await made.start()
        async with talk(made) as talking:
            await talking.ready()
            desk = Desk(made, talking)
            error = await desk.failed("audit", "verify", "-p", desk.project, status=os.EX_SOFTWARE)
    assert problem in error["message"]


async def test_logs_follow_what_comes_and_the_next_generation(tmp_path: Path) -> None:
    fake = tmp_path / "fake-codex"
    real = codex_cli_bin.bundled_codex_path()
    fake.write_text(f'#!/bin/sh\necho "start $PPID of it" >&2\nexec {real} "$@"\n')
    fake.chmod(0o755)
    async with desk_at(tmp_path, codex_bin=str(fake)) as desk:
        await desk.talk.ready()
        following = await asyncio.create_subprocess_exec(
            *command("logs", "-f", desk.project),
            env={**environment(), **desk.env},
            stdout=subprocess.PIPE,
        )
        assert following.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE):
                await _until_line(following.stdout, b"of it")
                await desk.typed("restart", desk.project)
                await _until_line(following.stdout, b"of it")
        finally:
            following.send_signal(signal.SIGINT)
            code = await following.wait()
        assert code == 130
        shown = await desk.json("logs", desk.path, "-n", "1")
        assert len(shown["lines"]) == 1


async def _until_line(stream: asyncio.StreamReader, part: bytes) -> None:
    while part not in await stream.readline():
        assert not stream.at_eof()


async def test_doctor_finds_nothing_wrong_with_a_supervisor_at_work(desk: Desk) -> None:
    await desk.talk.ready()

    found = {one["check"]: one for one in (await desk.json("doctor"))["checks"]}

    assert {name: one for name, one in found.items() if one["verdict"] == "fail"} == {}
    assert str(desk.rig.addresses["port"]) in found["port"]["says"]
    assert found["projects"]["says"] == "1 open, all well"
    table = await desk.typed("doctor")
    assert "fail" not in table


async def test_doctor_fails_for_a_token_that_is_no_longer_the_supervisors(desk: Desk) -> None:
    await desk.talk.ready()
    (desk.rig.state_dir / "token").write_text("another-token-of-some-length\n")

    ended = await asyncio.to_thread(completed, desk.env, "--output", "json", "doctor")

    assert ended.returncode == 1
    found = {one["check"]: one for one in json.loads(ended.stdout)["checks"]}
    assert found["port"]["verdict"] == "fail"


async def test_doctor_says_what_is_wrong_with_settings(tmp_path: Path) -> None:
    ended = await asyncio.to_thread(
        completed, {"CODEX_SUPERVISOR_LISTEN_PORT": "x"}, "--output", "json", "doctor"
    )

    assert ended.returncode == 1
    (only,) = json.loads(ended.stdout)["checks"]
    assert only["check"] == "settings"
    assert "listen_port" in only["says"].lower()


async def test_version_shows_the_codex_that_would_be_started(desk: Desk) -> None:
    shown = await desk.json("version")
    assert shown["codex found"] == shown["codex wanted"]
    assert shown["codex-supervisor"] in await desk.typed("version")
