"""The app-server is killed in a turn: what it was in the middle of is told, and it comes back."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from supervisor.audit.chain import verify
from supervisor.errors import ErrorCode, SupervisorError
from tests.chaos import oracle
from tests.rig import ASKING, DEADLINE, Rig, rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

CHILDREN = "sleep 7001 & (setsid sleep 7002 &); (sleep 7003 &); wait"
SLEEPERS = {"7001", "7002", "7003"}
EXITS = {"restart": {"base_seconds": 0.01, "cap_seconds": 0.05, "intensity": 2}}


def sleepers(rig: Rig) -> set[str]:
    """The sleeps that commands of this rig have started."""
    lines = (each.cmdline() for each in rig.processes())
    return {line[1] for line in lines if line[:1] == ["sleep"]} & SLEEPERS


async def kill(talk: Talk) -> int:
    """SIGKILL the app-server, and nothing but it; its pid."""
    pid = (await talk.call("projectStatus"))["pid"]
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait, DEADLINE)
    return int(pid)


async def test_a_killed_app_server_comes_back_and_says_what_was_lost(
    running: Rig, project: Talk
) -> None:
    busy, waiting = await project.thread(), await project.thread(ASKING)
    empty = await project.thread()
    await project.run(busy, "mock:text n=1")
    asking = await project.send(waiting, "mock:exec cmd='touch never'")
    approval = await project.asked(asking)
    turn = await project.send(busy, f"mock:exec cmd='{CHILDREN}' yield_ms=30000")
    await eventually(lambda: sleepers(running) == SLEEPERS)

    pid = await kill(project)
    assert await project.ended(turn) == "interrupted"
    assert await project.ended(asking) == "interrupted"
    resolved = await project.told("serverRequest/resolved", threadId=waiting)
    assert resolved["synthesised"]
    ready = await project.told("supervisor/agentReady", generation=2)
    assert not ready["adopted"]

    status = await project.ready()
    assert status["pid"] != pid
    assert (status["generation"], status["state"], status["restarts"]) == (2, "ready", 1)
    assert (status["activeTurns"], status["waitingApprovals"]) == (0, 0)
    assert sleepers(running) == set()
    for thread in (busy, waiting):
        await project.told("supervisor/threadResumed", threadId=thread)
        await project.run(thread, "mock:text n=2")
    with pytest.raises(SupervisorError) as settled:
        await project.answer(approval, "accept")
    assert settled.value.code is ErrorCode.APPROVAL_SETTLED
    await project.told("supervisor/threadLost", threadId=empty)
    with pytest.raises(SupervisorError) as lost:
        await project.send(empty, "mock:text n=1")
    assert lost.value.code is ErrorCode.THREAD_LOST
    assert not (running.project_dir / "never").exists()
    oracle.check_cursors(project.reader)
    records = await project.audit()
    assert verify(records).ok
    ended = [r for r in records if r.kind == "agent.exited"]
    assert [b'"killed"' in r.detail for r in ended] == [True]


async def test_a_client_that_waits_for_the_killed_one_is_told_to_look_and_retry(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:stall after=2")
    await running.model.wait_for_requests(1)
    steer = {"threadId": thread, "turnId": turn, "text": "more"}
    error = await killed_in(project, "steerTurn", steer, "turn/steer")
    assert error.retryable
    assert await project.ended(turn) == "interrupted"
    await project.told("supervisor/requestFailed", method="turn/steer", threadId=thread)
    await project.run(thread, "mock:text n=1")


async def test_a_message_nobody_can_know_of_is_not_sent_twice(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    message = {"threadId": thread, "text": "mock:text n=2", "idempotencyKey": "once"}
    await killed_in(project, "sendMessage", message, "turn/start")
    await project.told("supervisor/requestFailed", method="turn/start", threadId=thread)
    again = await refusal(project, "sendMessage", message)
    assert again.code is ErrorCode.AGENT_RESTARTED
    assert not again.retryable, "with this key the answer will be the same for ever"
    assert [r.prompt for r in running.model.requests] == ["mock:text n=1"]
    turn = (await project.call("sendMessage", **{**message, "idempotencyKey": "twice"}))["turnId"]
    assert await project.ended(turn) == "completed"


async def test_the_key_of_an_interrupted_turn_does_not_run_it_again(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    message = {"threadId": thread, "text": "mock:stall after=2", "idempotencyKey": "key"}
    sent = await project.call("sendMessage", **message)
    await running.model.wait_for_requests(1)
    await kill(project)
    assert await project.ended(sent["turnId"]) == "interrupted"
    await project.told("supervisor/agentReady", generation=2)
    assert await project.call("sendMessage", **message) == {**sent, "replayed": True}
    assert len(running.model.requests) == 1


async def killed_in(
    talk: Talk, method: str, params: dict[str, str], upstream: str
) -> SupervisorError:
    """Kill the app-server after the request was committed, and before it could read it."""
    before = submitted(talk, upstream)
    os.kill((await talk.call("projectStatus"))["pid"], signal.SIGSTOP)
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(refusal(talk, method, params))
        await talk.until(lambda _: submitted(talk, upstream) > before)
        await kill(talk)
    assert asking.result().code is ErrorCode.AGENT_RESTARTED
    return asking.result()


def submitted(talk: Talk, upstream: str) -> int:
    every = (m for m in talk.reader.messages() if m["method"] == "supervisor/turnSubmitted")
    return sum(m["params"]["method"] == upstream for m in every)


async def refusal(talk: Talk, method: str, params: dict[str, str]) -> SupervisorError:
    with pytest.raises(SupervisorError) as refused:
        await talk.call(method, **params)
    return refused.value


async def test_exits_in_a_row_end_in_quarantine_until_somebody_restarts_the_project(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, **EXITS) as made:
        await made.start()
        async with talk(made) as project:
            thread = await project.thread()
            await project.run(thread, "mock:text n=1")
            for generation in (1, 2, 3):
                await project.told("supervisor/agentReady", generation=generation)
                await project.ready()
                await kill(project)
            told = await project.told("supervisor/agentQuarantined", kind="killed")
            assert "3 times" in told["reason"]
            with pytest.raises(SupervisorError) as refused:
                await project.call("pingProject")
            assert refused.value.code is ErrorCode.AGENT_QUARANTINED
            assert "killed" in refused.value.message
            assert not refused.value.retryable
            status = await project.call("projectStatus")
            assert (status["state"], status["pid"]) == ("quarantined", None)
            assert "killed" in status["reason"]
            assert made.processes() == []
            await project.call("restartProject")
            assert (await project.ready())["generation"] == 4
            await project.run(thread, "mock:text n=1")


async def test_a_stopped_or_restarted_project_does_not_wait_out_its_backoff(
    tmp_path: Path,
) -> None:
    patient = {"base_seconds": 80_000, "cap_seconds": 86_400}
    async with rig(tmp_path, restart=patient) as made:
        await made.start()
        async with talk(made) as project:
            await project.ready()
            await kill(project)
            status = await project.status(state="backing_off", desired="running")
            assert "killed" in status["reason"]
            await project.call("restartProject")
            assert (await project.ready())["generation"] == 2
            await kill(project)
            await project.status(state="backing_off")
            assert (await project.call("stopProject"))["state"] == "stopped"
            with pytest.raises(SupervisorError) as stopped:
                await project.call("pingProject")
            assert stopped.value.code is ErrorCode.AGENT_NOT_READY
            async with made.dial() as client:
                await made.open(client)
            assert (await project.ready())["generation"] == 3
