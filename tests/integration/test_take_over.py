"""What a successor makes of what it finds: another past, wishes not carried out, lines not read."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.agents.spool import punch
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.ports.store import ProjectState
from supervisor.stores.sql import SqlStore
from supervisor.testing.app_server import install
from tests.integration.hosted import Hosted, Seen, hosted, watching
from tests.integration.serving import until


def database(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(root / "state" / "supervisor.db")


def change(root: Path, statement: str, *values: object) -> None:
    """As somebody who was killed right after it would have left it."""
    with closing(database(root)) as connection, connection:
        connection.execute(statement, values)


def generations(root: Path) -> list[str]:
    """The generation of each process that was started below `root`."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            ours = str(root) in environment.get("CODEX_HOME", "")
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(environment[MARKER_VARIABLE].rpartition(":")[2])
        except psutil.Error:
            continue
    return sorted(found)


async def until_status(host: Hosted, project: str, **wanted: object) -> dict[str, Any]:
    while True:
        status = await host.call(project, "projectStatus")
        if wanted.items() <= status.items():
            return dict(status)
        await asyncio.sleep(0.01)


async def committed(host: Hosted, project: str) -> None:
    """Have what was said so far in the store."""
    await host.call(project, "listAudit", limit=1)


async def a_turn(host: Hosted, seen: Seen, project: str, thread: str) -> None:
    await seen.until_end(await host.send(project, thread, "text n=3"))


def by_cursor(seen: Seen) -> dict[str, object]:
    """The message of each event, by its whole cursor."""
    payloads = [json.loads(payload) for payload in seen.payloads]
    return {p["cursor"]: p["message"] for p in payloads if p["type"] == "event"}


class Backup:
    """The database as it was."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "backup.db"
        with closing(database(root)) as source, closing(sqlite3.connect(self.path)) as copy:
            source.backup(copy)

    def restore(self) -> None:
        target = self.root / "state" / "supervisor.db"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        shutil.copy(self.path, target)


@pytest.mark.parametrize("later", ["generation", "events", "generation alone"])
async def test_after_an_older_database_was_restored_no_number_is_given_twice(
    later: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        thread = await host.thread(project)
        async with watching(host, project) as seen:
            await a_turn(host, seen, project, thread)
            await committed(host, project)
            backup = Backup(tmp_path)
            if later != "events":
                os.kill((await host.call(project, "projectStatus"))["pid"], signal.SIGKILL)
                await until_status(host, project, generation=2, state="ready")
            await a_turn(host, seen, project, thread)
            await committed(host, project)
            shown = by_cursor(seen)
    backup.restore()
    if later == "generation alone":
        (host.spool(project).parents[1] / "reached").unlink()
    async with hosted(tmp_path) as host:
        await host.open("p")
        await host.call(project, "pingProject")
        assert len(generations(tmp_path)) == 1, "there is one app-server, and no stray beside it"
        middle = list(shown)[len(shown) // 2]
        async with watching(host, project, after=middle) as again:
            await a_turn(host, again, project, thread)
            kinds = [json.loads(payload)["type"] for payload in again.payloads[:2]]
            assert kinds == ["expired", "snapshot"]
            assert not by_cursor(again).keys() & shown.keys()


@pytest.mark.parametrize("found", ["hole", "host"])
async def test_an_unproved_past_renews_the_epoch_and_old_cursors_get_a_snapshot(
    found: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        thread = await host.thread(project)
        async with watching(host, project) as seen:
            await seen.until_end(await host.send(project, thread, "text n=200"))
        await committed(host, project)
        status = await host.call(project, "projectStatus")
    if found == "hole":
        spool = host.spool(project)
        if not punch(spool, spool.stat().st_size):
            pytest.skip("this file system punches no holes")
    else:
        change(tmp_path, "UPDATE checkpoints SET host = 'elsewhere'")
    async with hosted(tmp_path) as host:
        async with watching(host, project, after=status["cursor"]) as seen:
            await a_turn(host, seen, project, thread)
            kinds = [json.loads(payload)["type"] for payload in seen.payloads[:2]]
            assert kinds == ["expired", "snapshot"]
        now = await host.call(project, "projectStatus")
        assert now["cursor"].split(".")[0] != status["cursor"].split(".")[0]
        assert now["pid"] == status["pid"], "what runs goes on"


async def test_a_trust_withdrawn_and_not_carried_out_is_carried_out(tmp_path: Path) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        await host.call(project, "pingProject")
        await host.call(project, "trustProject", trusted=True)
        trusted = await until_status(host, project, generation=2, state="ready")
        command = " ".join(psutil.Process(trusted["pid"]).cmdline())
        assert 'trust_level="trusted"' in command
    change(tmp_path, "UPDATE projects SET trusted = 0")
    async with hosted(tmp_path) as host:
        status = await until_status(host, project, generation=3, state="ready")
        assert not status["trusted"]
        command = " ".join(psutil.Process(status["pid"]).cmdline())
        assert 'trust_level="untrusted"' in command
        assert generations(tmp_path) == ["3"]


async def test_a_stop_committed_and_not_carried_out_is_carried_out(tmp_path: Path) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        await host.call(project, "pingProject")
    change(tmp_path, "UPDATE projects SET desired = 'stopped'")
    async with hosted(tmp_path) as host:
        await until_status(host, project, state="stopped", desired="stopped")
        assert generations(tmp_path) == []


async def test_a_quarantine_holds_over_a_restart_until_somebody_releases_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin").mkdir()
    failing = install(tmp_path / "bin", "exit-at-once")
    restart = {"base_seconds": 0.01, "cap_seconds": 0.02, "intensity": 1}
    async with hosted(tmp_path, codex_bin=failing, restart=restart) as host:
        project = await host.open("p")
        before = await until_status(host, project, state="quarantined")
    async with hosted(tmp_path, restart=restart) as host:
        await host.open("p")
        status = await until_status(host, project, state="quarantined")
        assert status["reason"] == before["reason"]
        assert status["generation"] == before["generation"], "not even tried"
        with pytest.raises(SupervisorError) as raised:
            await host.thread(project)
        assert raised.value.code is ErrorCode.AGENT_QUARANTINED
        await host.call(project, "restartProject")
        status = await until_status(host, project, state="ready")
        assert status["reason"] is None
    async with hosted(tmp_path, restart=restart) as host:
        await host.open("p")
        await until_status(host, project, state="ready")


class Locked(SqlStore):
    """Cannot be read at first."""

    locked = True

    async def project_state(self, project: ProjectId) -> ProjectState:
        if self.locked:
            raise SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the database is locked")
        return await super().project_state(project)


@pytest.mark.parametrize("event", ["openProject", "trustProject"])
async def test_an_event_of_ours_takes_its_number_behind_what_was_spooled_meanwhile(
    event: str, tmp_path: Path
) -> None:
    """The project is opened late: clients are there already while its spool is read."""
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        thread = await host.thread(project)
        async with watching(host, project) as seen:
            await host.send(project, thread, "slow n=400 delay=0.005")
            await seen.until(lambda s: s.methods().count("item/agentMessage/delta") > 60)
            shown = by_cursor(seen)
    if event == "openProject":
        change(tmp_path, "UPDATE projects SET desired = 'stopped'")
    store = Locked(f"sqlite:///{tmp_path}/state/supervisor.db", clock=SystemClock())
    async with hosted(tmp_path, store) as host:
        store.locked = False
        await host.open("p")
        if event == "trustProject":
            await host.call(project, "trustProject", trusted=True)
        first = min(shown, key=lambda cursor: int(cursor.split(".")[1]))
        async with watching(host, project, after=first) as again:
            await again.until(lambda s: len(s.payloads) > len(shown))
            told = by_cursor(again)
        assert {c: told[c] for c in shown if c in told} == {c: shown[c] for c in shown if c in told}
        assert len(told.keys() & shown.keys()) == len(shown) - 1


async def test_a_background_command_that_ends_after_a_restart_is_its_persons(
    tmp_path: Path,
) -> None:
    command = {"type": "commandExecution", "id": "c", "command": "sleep 9", "cwd": "/"}

    def say(method: str, **more: object) -> None:
        params = {"threadId": thread, "turnId": turn, "item": {**command, **more}}
        with host.spool(project).open("ab") as spool:
            spool.write(json.dumps({"method": method, "params": params}).encode() + b"\n")

    async def records(count: int) -> list[dict[str, Any]]:
        while True:
            every = (await host.call(project, "listAudit", limit=1000))["records"]
            found = [r for r in every if r["kind"] == "command.run"]
            if len(found) == count:
                return found
            await asyncio.sleep(0.01)

    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        thread = await host.thread(project)
        async with watching(host, project) as seen:
            turn = await host.send(project, thread, "text n=3")
            await seen.until_end(turn)
        say("item/started", status="inProgress")
        await records(1)
    async with hosted(tmp_path) as host:
        await host.call(project, "pingProject")
        say("item/completed", status="completed", exitCode=0)
        intent, outcome = await records(2)
    assert (intent["phase"], outcome["phase"]) == ("intent", "outcome")
    who = ("account", "principal", "source", "client")
    assert [outcome[name] for name in who] == [intent[name] for name in who]
    assert outcome["principal"] != "supervisor"


async def test_an_answer_after_adoption_is_not_the_end_of_a_line_cut_in_the_pipe(
    tmp_path: Path,
) -> None:
    log, bin_ = tmp_path / "read.log", tmp_path / "bin"
    bin_.mkdir()
    codex = install(bin_, log=log)
    async with hosted(tmp_path, codex_bin=codex, on_shutdown="keep") as host:
        project = await host.open("p")
        await host.call(project, "pingProject")
        await committed(host, project)
        spool = host.spool(project)
    fifo = os.open(spool.with_name("stdin"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(fifo, b'{"id":"x","method":"turn/sta')
    os.close(fifo)
    with spool.open("ab") as said:
        said.write(b'{"method":"currentTime/read","id":4711,"params":{}}\n')
    async with hosted(tmp_path, codex_bin=codex) as host:
        await host.call(project, "pingProject")
        await until(lambda: b"4711" in log.read_bytes())
    lines = log.read_bytes().split(b"\n")
    assert b'{"id":"x","method":"turn/sta' in lines
    (answer,) = [line for line in lines if b"4711" in line]
    assert json.loads(answer)["result"]["currentTimeAt"] > 0
