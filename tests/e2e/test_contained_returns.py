"""A supervisor that comes back to containers: some run on, some are gone, of some the spool is."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.chaos import oracle
from tests.rig import Rig, contained_rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

PIECES = 60


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    restart = {"base_seconds": 0.01, "cap_seconds": 0.05}
    async with contained_rig(tmp_path, punch_spools=False, restart=restart) as made:
        await made.start()
        yield made


@pytest.fixture
async def project(running: Rig) -> AsyncIterator[Talk]:
    async with talk(running) as made:
        yield made


async def test_what_is_to_be_kept_runs_on_between_two_supervisors(tmp_path: Path) -> None:
    async with contained_rig(tmp_path, punch_spools=False, on_shutdown="keep") as rig:
        await rig.start()
        async with talk(rig) as project:
            thread = await project.thread()
            turn = await project.send(thread, f"mock:stall after=2 n={PIECES}")
            await rig.model.wait_for_requests(1)
            before = await project.call("projectStatus")
            assert await asyncio.to_thread(rig.signal, signal.SIGTERM) == 0
            # Nobody looks after it now: its model answers by the proxy all the same.
            assert rig.containers() == [before["confinement"]["container"]]
            rig.model.release()
            rig.settings["on_shutdown"] = "stop"
            await rig.start()
            assert await project.ended(turn) == "completed"
            after = await project.ready()
            same = ("pid", "generation", "confinement")
            assert [after[name] for name in same] == [before[name] for name in same]
            oracle.check_text(project.reader, turn, PIECES, 7, unicode=False)
            oracle.check_stream(rig, project.project, project.reader)
            assert len(rig.model.requests) == 1


async def test_one_that_was_removed_meanwhile_has_ended_and_the_next_one_starts(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    before = await project.ready()
    running.kill()
    removed = ("rm", "--force", "--time", "0", before["confinement"]["container"])
    await asyncio.to_thread(running.podmans, *removed)
    await running.start()
    await project.told("supervisor/agentReady", generation=2)
    await project.run(thread, "mock:text n=1")
    (ended,) = [r for r in await project.audit() if r.kind == "agent.exited"]
    assert ended.generation == 1
    after = await project.ready()
    assert running.containers() == [after["confinement"]["container"]]


async def test_one_whose_spool_is_gone_is_ended_and_the_next_one_starts(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    before = await project.ready()
    running.kill()
    shutil.rmtree(running.state_dir / "projects" / project.project / "1")
    await running.start()
    await eventually(lambda: not psutil.pid_exists(before["pid"]))
    after = await project.status(generation=2, state="ready")
    assert running.containers() == [after["confinement"]["container"]]
    assert after["confinement"]["container"] != before["confinement"]["container"]
    await project.run(thread, "mock:text n=1")
