"""Whatever is killed around a container: the turn goes on or its end is told, nothing stays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from supervisor.audit.chain import verify
from supervisor.errors import SupervisorError
from tests.chaos import oracle
from tests.chaos.reader import Reader
from tests.rig import ASKING, DEADLINE, Rig, contained_rig
from tests.talk import Talk, eventually

pytestmark = pytest.mark.codex

EXITS = {"restart": {"base_seconds": 0.01, "cap_seconds": 0.05, "intensity": 5}}
PIECES = 500


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    limits = {"limits": {"memory_bytes": 192 << 20, "tmp_bytes": 16 << 20}}
    async with contained_rig(tmp_path, punch_spools=False, podman=limits, **EXITS) as made:
        await made.start()
        yield made


def conmon_of(container: str) -> psutil.Process:
    (found,) = (p for p in psutil.process_iter() if container in _line(p, "conmon"))
    return found


def _line(process: psutil.Process, name: str) -> list[str]:
    try:
        return process.cmdline() if process.name() == name else []
    except psutil.Error:  # a zombie, or gone
        return []


def proxy_of(rig: Rig) -> psutil.Process:
    (found,) = (p for p in rig.processes() if "proxy" in p.cmdline())
    return found


def pieces(reader: Reader, turn: str) -> int:
    deltas = (m for m in reader.messages() if m["method"] == "item/agentMessage/delta")
    return sum(m["params"]["turnId"] == turn for m in deltas)


async def killed(process: psutil.Process) -> None:
    process.kill()
    await asyncio.to_thread(process.wait, DEADLINE)


async def test_supervisor_killed_ten_times_in_one_stream(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    turn = await project.send(thread, f"mock:slow n={PIECES} delay=0.04")
    before = await project.call("projectStatus")
    for round_ in range(10):
        seen = 10 + 20 * round_
        await project.until(lambda reader, n=seen: pieces(reader, turn) >= n)
        running.kill()
        await running.start()
    assert await project.ended(turn) == "completed"
    after = await project.ready()
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    oracle.check_text(project.reader, turn, PIECES, 7, unicode=False)
    oracle.check_stream(running, project.project, project.reader)
    assert len(running.model.requests) == 1
    assert verify(await project.audit()).ok


async def test_supervisor_killed_while_an_approval_waits(running: Rig, project: Talk) -> None:
    thread = await project.thread(ASKING)
    turn = await project.send(thread, "mock:exec cmd='touch asked'; mock:text n=20")
    approval = await project.asked(turn)
    running.kill()
    await running.start()
    await project.ready()
    (still,) = (await project.call("listApprovals"))["approvals"]
    assert still["approvalId"] == approval["approvalId"]
    await project.answer(approval, "accept")
    assert await project.ended(turn) == "completed"
    assert (running.project_dir / "asked").exists()
    assert [r.attempt for r in running.model.requests] == [1, 1]


async def test_killed_proxy_is_followed_by_another_and_the_turn_completes(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:text n=100 delay=0.03")
    await project.told("item/agentMessage/delta", turnId=turn)
    await killed(proxy_of(running))
    assert await project.ended(turn) == "completed"
    assert max(request.attempt for request in running.model.requests) > 1
    assert (await project.call("projectStatus"))["generation"] == 1
    await project.run(thread, "mock:text n=1")


@pytest.mark.parametrize("how", [("kill",), ("rm", "--force", "--time", "0")], ids=["kill", "rm"])
async def test_container_killed_behind_our_back(
    running: Rig, project: Talk, how: tuple[str, ...]
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    turn = await project.send(thread, "mock:stall after=2")
    await running.model.wait_for_requests(2)
    container = (await project.call("projectStatus"))["confinement"]["container"]
    await asyncio.to_thread(running.podmans, *how, container)
    assert await project.ended(turn) == "interrupted"
    await project.told("supervisor/agentReady", generation=2)
    assert container not in running.containers()
    await project.run(thread, "mock:text n=1")
    ended = [r for r in await project.audit() if r.kind == "agent.exited"]
    assert len(ended) == 1


async def test_killed_conmon_costs_nothing(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:text n=60 delay=0.03")
    await project.told("item/agentMessage/delta", turnId=turn)
    status = await project.call("projectStatus")
    await killed(conmon_of(status["confinement"]["container"]))
    assert await project.ended(turn) == "completed"
    oracle.check_text(project.reader, turn, 60, 7, unicode=False)
    running.kill()
    await running.start()
    assert (await project.ready())["generation"] == 1
    await project.call("stopProject")
    await eventually(lambda: running.containers() == [])
    await eventually(lambda: not psutil.pid_exists(status["pid"]))


async def test_command_out_of_memory_takes_nothing_with_it(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    bomb = 'python3 -c "x = bytearray(10 ** 9)"; echo it ended with $? > how'
    await project.run(thread, f"mock:exec cmd='{bomb}'; mock:text n=3")
    assert (running.project_dir / "how").read_text() == "it ended with 137\n"
    status = await project.ready()
    assert (status["generation"], status["restarts"]) == (1, 0)


async def test_app_server_out_of_memory_is_called_so(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    status = await project.ready()
    container = status["confinement"]["container"]
    squeezed = ("update", "--memory", "40m", "--memory-swap", "40m", container)
    await asyncio.to_thread(running.podmans, *squeezed)
    # Its answer is lost with it.
    with contextlib.suppress(SupervisorError):
        await project.send(thread, "mock:text n=1 " + "x" * ((8 << 20) - 100))
    await project.told("supervisor/agentReady", generation=2)
    (ended,) = (r for r in await project.audit() if r.kind == "agent.exited")
    assert b'"oom"' in ended.detail
