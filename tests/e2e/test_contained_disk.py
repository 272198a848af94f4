"""A contained project that writes more than it may: held, ended with the reason, or simply full."""

import subprocess
from pathlib import Path

import pytest

from supervisor.runtimes.cgroups import cgroup_of
from supervisor.runtimes.disk_tools import doubt
from tests.conftest import require
from tests.containers import OWNER
from tests.rig import contained_rig
from tests.talk import eventually, talk

pytestmark = pytest.mark.codex

MIB = 1 << 20
WATCH = {"mode": "watch", "project_bytes": 8 * MIB, "check_seconds": 0.1}
FILL = "mock:exec cmd='head -c 32000000 /dev/zero >large'; mock:text n=3"


def frozen(status: dict[str, object]) -> bool:
    pid, around = status["pid"], status["confinement"]
    assert isinstance(pid, int)
    assert isinstance(around, dict)
    cgroup = cgroup_of(pid, around["container"])
    return cgroup is not None and cgroup.frozen()


async def test_over_its_bound_it_stands_still_until_space_is_freed(tmp_path: Path) -> None:
    watch = {**WATCH, "grace_seconds": 3600}
    async with contained_rig(tmp_path, disk=watch) as rig:
        await rig.start()
        async with talk(rig) as project:
            before = await project.ready()
            turn = await project.send(await project.thread(), FILL)
            await eventually(lambda: frozen(before))
            (rig.project_dir / "large").unlink()
            await eventually(lambda: not frozen(before))
            assert await project.ended(turn) == "completed"
            assert (await project.ready())["generation"] == 1


async def test_if_none_is_freed_it_is_ended_with_the_reason(tmp_path: Path) -> None:
    watch = {**WATCH, "grace_seconds": 0.5}
    async with contained_rig(tmp_path, disk=watch) as rig:
        await rig.start()
        async with talk(rig) as project:
            await project.send(await project.thread(), FILL)
            status = await project.status(state="quarantined")
            assert status["reason"].startswith("disk full: the project uses at least ")
            assert status["reason"].endswith(" of 8.0 MiB")
            assert rig.containers() == []
            (rig.project_dir / "large").unlink()
            await project.call("restartProject")
            await project.run(await project.thread(), "mock:text n=1")
            (ended,) = [r for r in await project.audit() if r.kind == "agent.exited"]
            assert b'"disk_full"' in ended.detail


async def test_in_an_image_there_is_no_more_room_and_it_lives_on(tmp_path: Path) -> None:
    require(not doubt(), f"what images need: {doubt()}")
    image = {"mode": "image", "project_bytes": 48 * MIB, "home_bytes": 64 * MIB}
    fill = "head -c 99000000 /dev/zero >large; echo it ended with $? >/tmp/how; rm large"
    async with contained_rig(tmp_path, disk=image) as rig:
        await rig.start()
        try:
            async with talk(rig) as project:
                thread = await project.thread()
                await project.run(thread, f"mock:exec cmd='{fill}; cp /tmp/how .'; mock:text n=1")
                how = rig.project_dir / "how"
                assert how.read_text() == "it ended with 1\n"
                assert how.stat().st_uid == OWNER
                assert (await project.ready())["generation"] == 1
                home = rig.state_dir / "projects" / project.project / "codex-home"
                assert home.is_mount()
                await project.call("stopProject")
                await eventually(lambda: not home.is_mount())
                # People see their files; who needs the mount off takes it off.
                unmount(rig.project_dir)
                assert not how.exists()
                await project.call("restartProject")
                await project.ready()
                assert how.read_text() == "it ended with 1\n"
        finally:
            rig.shut()
            unmount(rig.project_dir)


def unmount(directory: Path) -> None:
    if directory.is_mount():
        subprocess.run(["umount", directory], check=True)
