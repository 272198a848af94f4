"""The main job with `runtime = "podman"`: the same turns, in a container without a network."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.audit.chain import verify
from tests.chaos import oracle
from tests.containers import OWNER
from tests.rig import ASKING, Rig, contained_rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

PATCH = 'mock:patch file=made.txt text="one line"'


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    async with contained_rig(tmp_path, punch_spools=False) as made:
        await made.start()
        yield made


async def test_a_prompt_streams_waits_for_approval_and_changes_a_file(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    prompt = f"mock:text n=40; mock:exec cmd='id -u > who'; {PATCH}; mock:text n=2"
    turn = await project.send(thread, prompt)
    for _ in range(2):  # the command, then the patch
        await project.answer(await project.asked(turn), "accept")
    assert await project.ended(turn) == "completed"
    assert (running.project_dir / "who").read_text() == f"{OWNER}\n"
    assert (running.project_dir / "made.txt").read_text() == "one line\n"
    assert {path.stat().st_uid for path in running.project_dir.iterdir()} == {OWNER}
    oracle.check_stream(running, project.project, project.reader)
    status = await project.call("projectStatus")
    assert status["runtime"] == "podman"
    assert [status["confinement"]["container"]] == running.containers()
    assert (status["confinement"]["limitsHold"], status["confinement"]["stdioOutOfReach"]) == (
        True,
        True,
    )
    key = (running.root / "model-key").read_text().strip()
    assert {request.authorization for request in running.model.requests} == {f"Bearer {key}"}
    records = await project.audit()
    assert verify(records).ok
    assert {"command.run", "file.changed", "approval.answered"} <= {r.kind for r in records}


async def test_what_it_writes_below_its_home_is_the_agents_own(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    homes = running.state_dir / "projects" / project.project / "codex-home"
    assert homes.stat().st_uid == OWNER
    assert homes.stat().st_mode & 0o777 == 0o700
    assert list(homes.rglob("rollout-*.jsonl"))
    assert not list(running.codex_home.rglob("rollout-*.jsonl")), "the person's own is not used"


async def test_a_stopped_project_leaves_no_container(running: Rig, project: Talk) -> None:
    before = await project.ready()
    assert running.containers() == [before["confinement"]["container"]]
    await project.call("stopProject")
    await eventually(lambda: running.containers() == [])
    assert (await project.call("projectStatus"))["confinement"] is None
    await project.call("restartProject")
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")


async def test_it_is_mounted_elsewhere_where_the_settings_say_so(tmp_path: Path) -> None:
    async with contained_rig(tmp_path, podman={"mount_point": "/work"}) as rig:
        (rig.project_dir / "sub").mkdir()
        os.chown(rig.project_dir / "sub", OWNER, OWNER)
        await rig.start()
        async with talk(rig) as project:
            thread = await project.thread(cwd=str(rig.project_dir / "sub"))
            await project.run(thread, "mock:exec cmd='pwd > where'; mock:text n=1")
            assert (rig.project_dir / "sub" / "where").read_text() == "/work/sub\n"
            (listed,) = (await project.call("listThreads"))["threads"]
            assert listed["cwd"] == "/work/sub"
            rig.kill()
            await rig.start()
            await project.run(thread, "mock:exec cmd='pwd > again'; mock:text n=1")
            assert (rig.project_dir / "sub" / "again").read_text() == "/work/sub\n"
            status = await project.call("projectStatus")
            assert (status["path"], status["inside"]) == (str(rig.project_dir), "/work")


async def test_a_project_given_to_somebody_else_goes_on_as_theirs(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    await project.run(thread, "mock:text n=1")
    await project.call("stopProject")
    for path in (running.project_dir, *running.project_dir.rglob("*")):
        os.chown(path, OWNER + 1, OWNER + 1)
    await project.call("restartProject")
    await project.run(thread, "mock:exec cmd='id -u > whose'; mock:text n=1")
    assert (running.project_dir / "whose").read_text() == f"{OWNER + 1}\n"
    assert (running.project_dir / "whose").stat().st_uid == OWNER + 1
