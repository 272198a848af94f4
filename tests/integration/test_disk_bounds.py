"""A project's two directories: which is bounded by an image, which is watched, and why."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.disk import Disk, WatchedTree
from supervisor.runtimes.disk import HOME, PROJECT, DiskBounds
from supervisor.runtimes.disk_tools import doubt
from supervisor.settings_groups import DiskSettings
from tests.conftest import require

MIB = 1 << 20
NAME = ProjectId("p")
MARKER, NEXT = f"state:{NAME}:1", f"state:{NAME}:2"


class Machine:
    """One project of a state directory."""

    def __init__(self, root: Path) -> None:
        self.own = root / "state" / "projects" / NAME
        self.home = self.own / "codex-home"
        self.project = root / "project"
        self.home.mkdir(parents=True)
        self.project.mkdir()

    def bounds(self, **settings: Any) -> DiskBounds:
        """As each supervisor of the state directory has them."""
        told = {"home_bytes": 32 * MIB, "project_bytes": 48 * MIB, **settings}
        return DiskBounds(
            DiskSettings(**told), lambda _: self.own, lambda _: self.home, SystemClock()
        )

    def mounts(self) -> set[Path]:
        table = Path("/proc/self/mountinfo").read_text().splitlines()
        places = {Path(line.split()[4]) for line in table}
        return places & {self.home, self.project}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for place in made.mounts():
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def able() -> None:
    require(not doubt(), f"what images need: {doubt()}")


async def watched(machine: Machine, bounds: Disk) -> dict[str, WatchedTree]:
    return {tree.name: tree for tree in await bounds.watched(NAME, machine.project)}


# -- images


@pytest.mark.usefixtures("able")
async def test_both_directories_get_an_image_and_nothing_is_watched(machine: Machine) -> None:
    bounds = machine.bounds()
    bounds.prepare(NAME, machine.project, MARKER)
    assert machine.mounts() == {machine.home, machine.project}
    assert await watched(machine, bounds) == {}
    assert os.statvfs(machine.home).f_blocks * 4096 < 32 * MIB
    assert 32 * MIB < os.statvfs(machine.project).f_blocks * 4096 < 48 * MIB


@pytest.mark.usefixtures("able")
async def test_a_successor_finds_them_mounted(machine: Machine) -> None:
    machine.bounds().prepare(NAME, machine.project, MARKER)
    successor = machine.bounds()
    assert await watched(machine, successor) == {}
    successor.prepare(NAME, machine.project, MARKER)
    assert successor.release_of(MARKER) == ""
    assert machine.mounts() == {machine.project}
    assert successor.release_project(NAME, machine.project) == ""
    assert machine.mounts() == set()
    assert (successor.release_of(MARKER), successor.release_project(NAME, machine.project)) == (
        "",
        "",
    )


@pytest.mark.usefixtures("able")
async def test_a_project_with_files_is_watched_and_says_why(machine: Machine) -> None:
    (machine.project / "theirs").touch()
    bounds = machine.bounds()
    bounds.prepare(NAME, machine.project, MARKER)
    assert machine.mounts() == {machine.home}
    trees = await watched(machine, bounds)
    assert trees.keys() == {PROJECT}
    assert trees[PROJECT].bound == 48 * MIB
    assert "has files in it" in trees[PROJECT].why


@pytest.mark.usefixtures("able")
def test_an_image_is_insisted_upon_where_the_settings_do(machine: Machine) -> None:
    (machine.project / "theirs").touch()
    with pytest.raises(SupervisorError, match="has files in it") as caught:
        machine.bounds(mode="image").prepare(NAME, machine.project, MARKER)
    assert caught.value.code is ErrorCode.SETTINGS_INVALID


@pytest.mark.usefixtures("able")
async def test_without_a_bound_there_is_neither_image_nor_watch(machine: Machine) -> None:
    bounds = machine.bounds(project_bytes=None)
    bounds.prepare(NAME, machine.project, MARKER)
    assert machine.mounts() == {machine.home}
    assert await watched(machine, bounds) == {}


@pytest.mark.parametrize("changed", [{"mode": "watch"}, {"project_bytes": None}])
@pytest.mark.usefixtures("able")
async def test_an_image_that_holds_files_is_used_whatever_the_settings_say_now(
    machine: Machine, changed: dict[str, object]
) -> None:
    before = machine.bounds()
    before.prepare(NAME, machine.project, MARKER)
    (machine.project / "file").touch()
    before.release_of(MARKER)
    before.release_project(NAME, machine.project)
    after = machine.bounds(**changed)
    after.prepare(NAME, machine.project, MARKER)
    assert (machine.project / "file").exists()
    assert await watched(machine, after) == {}


@pytest.mark.usefixtures("able")
def test_a_full_home_is_told_before_codex_fails_over_it(machine: Machine) -> None:
    bounds = machine.bounds()
    bounds.prepare(NAME, machine.project, MARKER)
    with pytest.raises(OSError, match="No space"):
        (machine.home / "filler").write_bytes(b"x" * 32 * MIB)
    with pytest.raises(SupervisorError, match="CODEX_HOME is full") as caught:
        bounds.prepare(NAME, machine.project, MARKER)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert str(machine.home) in caught.value.hint
    (machine.home / "filler").unlink()
    bounds.prepare(NAME, machine.project, MARKER)


# -- the watch


async def test_the_watch_alone_makes_nothing(machine: Machine) -> None:
    bounds = machine.bounds(mode="watch")
    bounds.prepare(NAME, machine.project, MARKER)
    assert machine.mounts() == set()
    assert list(machine.own.iterdir()) == [machine.home]
    trees = await watched(machine, bounds)
    assert {name: (tree.directory, tree.bound, tree.why) for name, tree in trees.items()} == {
        PROJECT: (machine.project, 48 * MIB, ""),
        HOME: (machine.home, 32 * MIB, ""),
    }


async def test_what_is_watched_is_measured(machine: Machine) -> None:
    bounds = machine.bounds(mode="watch", project_bytes=MIB)
    tree = (await watched(machine, bounds))[PROJECT]
    async with asyncio.timeout(60):
        within = await bounds.measure(tree)
        (machine.project / "large").write_bytes(b"x" * 2 * MIB)
        over = await bounds.measure(tree)
    assert (within.verdict, over.verdict) == ("within", "over")
    assert over.bytes >= 2 * MIB


async def test_a_look_that_is_given_up_leaves_nothing_open(machine: Machine) -> None:
    bounds = machine.bounds(mode="watch")
    tree = (await watched(machine, bounds))[PROJECT]
    for n in range(3000):
        (machine.project / f"{n}").mkdir()
    async with asyncio.timeout(60):
        look = asyncio.ensure_future(bounds.measure(tree))  # noqa: TID251  cancelled below
        # It has begun, in a thread or between two steps.
        await asyncio.sleep(0)
        look.cancel()
        await asyncio.wait([look])
    assert look.cancelled()
    # The thread that lets go of it has ended as well.
    await asyncio.get_running_loop().shutdown_default_executor()
    links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.exists()]
    assert [link for link in links if link.is_relative_to(machine.project)] == []


@pytest.mark.usefixtures("able")
def test_only_the_generation_that_has_the_home_lets_go_of_it(machine: Machine) -> None:
    bounds = machine.bounds(project_bytes=None)
    bounds.prepare(NAME, machine.project, MARKER)
    bounds.prepare(NAME, machine.project, NEXT)
    # Late, and by a successor that was told nothing.
    assert machine.bounds().release_of(MARKER) == ""
    assert machine.mounts() == {machine.home}
    assert machine.bounds().release_of(NEXT) == ""
    assert machine.mounts() == set()


@pytest.mark.usefixtures("able")
def test_a_full_home_stays_in_reach_of_whoever_is_to_free_it(machine: Machine) -> None:
    bounds = machine.bounds(project_bytes=None)
    bounds.prepare(NAME, machine.project, MARKER)
    with pytest.raises(OSError, match="No space"):
        (machine.home / "filler").write_bytes(b"x" * 32 * MIB)
    assert bounds.release_of(MARKER) == ""
    with pytest.raises(SupervisorError):
        bounds.prepare(NAME, machine.project, NEXT)
    assert bounds.release_of(NEXT) == ""  # as the end of what did not start does
    (machine.home / "filler").unlink()
    bounds.prepare(NAME, machine.project, NEXT)
    assert bounds.release_of(NEXT) == ""
    assert machine.mounts() == set()
