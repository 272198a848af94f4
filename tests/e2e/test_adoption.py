"""A supervisor ends, in order or not, and its successor goes on with what it left."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.audit.chain import verify
from supervisor.errors import ErrorCode, SupervisorError
from tests.chaos import oracle
from tests.rig import ASKING, DEADLINE, Rig, rig
from tests.talk import Talk, eventually, talk
from tests.victim import Faults

pytestmark = pytest.mark.codex

ASKED = "mock:exec cmd='touch asked'; mock:text n=20"
PADDING = "é漢😀ß" * (2 * 1024 * 1024 // 11)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, punch_spools=False) as made:
        await made.start()
        yield made


async def succeed(rig: Rig, faults: Faults | None = None) -> None:
    """SIGKILL the supervisor, and start its successor."""
    rig.kill()
    await rig.start(faults)


async def dead(pid: int) -> None:
    """Wait until no such process is there."""
    await eventually(lambda: not psutil.pid_exists(pid))


def spool(rig: Rig, talk: Talk, generation: int) -> Path:
    return rig.state_dir / "projects" / talk.project / str(generation) / "stdout"


async def test_a_waiting_approval_is_answered_through_the_successor(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    turn = await project.send(thread, ASKED, idempotencyKey="key")
    approval = await project.asked(turn)
    before = await project.call("projectStatus")
    await succeed(running)
    after = await project.ready()
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    (still,) = (await project.call("listApprovals"))["approvals"]
    assert {**still, "askedAt": approval["askedAt"]} == approval
    again = await project.call("sendMessage", threadId=thread, text=ASKED, idempotencyKey="key")
    assert (again["turnId"], again["replayed"]) == (turn, True)
    await project.answer(approval, "accept")
    assert await project.ended(turn) == "completed"
    assert (running.project_dir / "asked").exists()
    oracle.check_cursors(project.reader)
    oracle.check_stream(running, project.project, project.reader)
    oracle.check_text(project.reader, turn, 20, 7, unicode=False)
    records = await project.audit()
    assert verify(records).ok
    kinds = [record.kind for record in records]
    assert "agent.exited" not in kinds
    assert kinds.count("agent.adopted") == 1


async def test_an_answer_that_was_committed_but_not_written_is_written_by_the_successor(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    turn = await project.send(thread, ASKED)
    approval = await project.asked(turn)
    await project.audit()  # everything so far is committed: the successor has nothing to repeat
    # Of its commits the first is its being ready, the second the answer.
    await succeed(running, Faults(commit=2, commit_delay_ms=-1))
    await project.ready()
    with pytest.raises(SupervisorError) as lost:
        await project.answer(approval, "accept")
    assert lost.value.code is ErrorCode.CONNECTION_LOST
    running.reap()
    assert states(running, "server_requests") == ["answered"]
    assert not (running.project_dir / "asked").exists()
    await running.start()
    assert await project.ended(turn) == "completed"
    assert (running.project_dir / "asked").exists()
    with pytest.raises(SupervisorError) as settled:
        await project.answer(approval, "decline")
    assert settled.value.code is ErrorCode.APPROVAL_SETTLED


def states(rig: Rig, table: str) -> list[str]:
    """The column of that name, as the database has it on disk."""
    with closing(sqlite3.connect(rig.state_dir / "supervisor.db")) as database:
        return [state for (state,) in database.execute(f"SELECT state FROM {table}")]


async def test_an_answer_that_is_not_confirmed_yet_is_written_again_and_counts_once(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    turn = await project.send(thread, "mock:exec cmd='echo once >> counted'; mock:text n=20")
    approval = await project.asked(turn)
    pid = (await project.call("projectStatus"))["pid"]
    os.kill(pid, signal.SIGSTOP)
    await project.answer(approval, "accept")
    await succeed(running)
    os.kill(pid, signal.SIGCONT)
    assert await project.ended(turn) == "completed"
    assert (running.project_dir / "counted").read_text() == "once\n"
    oracle.check_stream(running, project.project, project.reader)


async def test_an_app_server_paused_by_the_predecessor_goes_on(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:text n=300 delay=0.002")
    await project.told("item/agentMessage/delta", turnId=turn)
    os.kill((await project.call("projectStatus"))["pid"], signal.SIGSTOP)
    await succeed(running)
    assert await project.ended(turn) == "completed"
    oracle.check_text(project.reader, turn, 300, 7, unicode=False)


async def test_a_message_cut_in_the_fifo_is_sent_again_whole_and_runs_once(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    pid = (await project.call("projectStatus"))["pid"]
    text = f"{PADDING}\nmock:text n=5"
    message = {"threadId": thread, "text": text, "idempotencyKey": "long"}
    os.kill(pid, signal.SIGSTOP)  # so that it cannot read more than the pipe holds
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(refusal(project, message))
        await project.told("supervisor/turnSubmitted", method="turn/start", threadId=thread)
        await project.until(lambda reader: len(submitted(reader.messages())) == 2)
        running.kill()
        os.kill(pid, signal.SIGCONT)
    assert sending.result().code is ErrorCode.CONNECTION_LOST
    await running.start()
    turn = (await project.call("sendMessage", **message))["turnId"]
    assert await project.ended(turn) == "completed"
    assert (await project.call("projectStatus"))["pid"] == pid
    seen = [r for r in running.model.requests if r.turn_id == turn]
    assert [r.prompt_hash for r in seen] == [sha256(text.encode()).hexdigest()]
    oracle.check_stream(running, project.project, project.reader)


def submitted(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in messages if m["method"] == "supervisor/turnSubmitted"]


async def refusal(talk: Talk, message: dict[str, str]) -> SupervisorError:
    with pytest.raises(SupervisorError) as refused:
        await talk.call("sendMessage", **message)
    return refused.value


async def test_an_app_server_that_died_unseen_is_read_to_its_end_and_then_replaced(
    running: Rig, project: Talk
) -> None:
    speaking, silent = await project.thread(), await project.thread()
    for thread in (speaking, silent):
        await project.run(thread, "mock:text n=1")
    pid = (await project.call("projectStatus"))["pid"]
    lost = await project.send(silent, "mock:stall after=2")
    spoken = await project.send(speaking, "mock:text n=200 delay=0.005")
    running.kill()
    end = f'"id":"{spoken}"'.encode()
    await eventually(lambda: has_end(spool(running, project, 1), end))
    os.kill(pid, signal.SIGKILL)
    await dead(pid)
    await running.start()
    assert await project.ended(spoken) == "completed"
    assert await project.ended(lost) == "interrupted"
    oracle.check_text(project.reader, spoken, 200, 7, unicode=False)
    await project.told("supervisor/agentExited", generation=1, kind="vanished")
    assert (await project.ready())["generation"] == 2
    oracle.check_cursors(project.reader)
    for thread in (speaking, silent):
        await project.run(thread, "mock:text n=1")
    oracle.check_stream(running, project.project, project.reader)


def has_end(path: Path, turn: bytes) -> bool:
    lines = path.read_bytes().split(b"\n")
    return any(b'"turn/completed"' in line and turn in line for line in lines)


async def test_a_supervisor_told_to_keep_leaves_the_turn_running_for_the_next(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, on_shutdown="keep", punch_spools=False) as made:
        await made.start()
        async with talk(made) as project:
            thread = await project.thread(ASKING)
            turn = await project.send(thread, ASKED)
            approval = await project.asked(turn)
            before = await project.call("projectStatus")
            assert made.signal(signal.SIGTERM) == 0
            assert psutil.pid_exists(before["pid"])
            await made.start()
            assert (await project.ready())["pid"] == before["pid"]
            await project.answer(approval, "accept")
            assert await project.ended(turn) == "completed"
            oracle.check_stream(made, project.project, project.reader)


async def test_a_supervisor_told_to_stop_ends_turn_and_app_server_and_the_next_one_goes_on(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    await project.run(await project.thread(), "mock:exec cmd='sleep 7001' yield_ms=300")
    turn = await project.send(thread, f"mock:text n=3; {ASKED}")
    await project.asked(turn)
    assert any(each.name() == "sleep" for each in running.processes())
    assert running.signal(signal.SIGTERM) == 0
    assert running.processes() == []
    await running.start()
    assert await project.ended(turn) == "interrupted"
    assert (await project.ready())["generation"] == 2
    assert (await project.call("listApprovals"))["approvals"] == []
    await project.run(thread, "mock:text n=1")
    oracle.check_cursors(project.reader)


def another_boot(rig: Rig) -> None:
    """Make everything the supervisor wrote that of an earlier boot of the machine."""
    with closing(sqlite3.connect(rig.state_dir / "supervisor.db")) as database, database:
        for table in ("checkpoints", "generations"):
            database.execute(f"UPDATE {table} SET boot_id = 'the boot before'")


async def test_after_a_crash_of_the_machine_cursors_expire_and_a_snapshot_follows(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=3")
    last = project.reader.events[-1]["cursor"]
    running.kill()
    for process in running.processes():
        process.kill()
        await asyncio.to_thread(process.wait, DEADLINE)
    another_boot(running)
    await running.start()
    await project.until(lambda reader: len(reader.others) == 3)
    expired, snapshot = project.reader.others[1:]
    assert (expired["type"], expired["code"]) == ("expired", "cursor_expired")
    assert expired["asked"].split(".")[0] == last.split(".")[0]
    assert snapshot["type"] == "snapshot"
    assert snapshot["cursor"].split(".")[0] != last.split(".")[0]
    assert [t["threadId"] for t in snapshot["threads"]] == [thread]
    await project.run(thread, "mock:text n=3")
    assert project.reader.events[-1]["cursor"].startswith(snapshot["cursor"].split(".")[0])


async def test_after_an_orderly_reboot_cursors_go_on(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=3")
    assert running.signal(signal.SIGTERM) == 0
    another_boot(running)
    await running.start()
    await project.run(thread, "mock:text n=3")
    oracle.check_cursors(project.reader)
