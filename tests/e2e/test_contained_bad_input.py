"""What no container can be made of is refused by name; what podman refuses is told; none stays."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.api.client import RpcClient
from supervisor.errors import ErrorCode, SupervisorError
from tests.containers import OWNER
from tests.rig import Rig, contained_rig
from tests.talk import talk

pytestmark = pytest.mark.codex

QUICK = {"restart": {"base_seconds": 0.01, "cap_seconds": 0.02, "intensity": 1}}


def owned(path: Path, uid: int = OWNER) -> Path:
    path.mkdir(exist_ok=True)
    os.chown(path, uid, uid)
    return path


async def refused(client: RpcClient, path: Path) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        await client.call(None, "openProject", {"path": str(path)})
    return caught.value


@asynccontextmanager
async def started(root: Path, **settings: object) -> AsyncIterator[Rig]:
    async with contained_rig(root, **settings, **QUICK) as rig:
        await rig.start()
        yield rig


async def test_paths_that_may_be_no_project_are_refused_at_once(tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    async with started(tmp_path, project_roots=[str(roots)]) as rig, rig.dial() as client:
        outer = owned(roots / "outer")
        inner = owned(outer / "inner")
        link = roots / "link"
        link.symlink_to(outer)
        assert (await refused(client, link)).code is ErrorCode.PROJECT_PATH_REFUSED
        assert (await refused(client, roots.parent)).code is ErrorCode.PROJECT_PATH_REFUSED
        assert (await refused(client, rig.state_dir)).code is ErrorCode.PROJECT_PATH_REFUSED
        await client.call(None, "openProject", {"path": str(inner)})
        around = await refused(client, outer)
        assert around.code is ErrorCode.PROJECT_PATH_REFUSED
        assert "another project" in around.message
        within = await refused(client, owned(inner / "within"))
        assert within.code is ErrorCode.PROJECT_PATH_REFUSED
        listed = await client.call(None, "listProjects")
        assert isinstance(listed, dict)
        assert [one["path"] for one in listed["projects"]] == [str(inner)]


@pytest.mark.parametrize(
    ("podman", "owner", "says"),
    [
        ({}, 0, "never runs as root"),
        ({"uid": OWNER + 1}, OWNER, f"belongs to uid {OWNER}"),
        ({"image": "localhost/no-such-image:1"}, OWNER, "no-such-image"),
        ({"limits": {"pids": 1_000_000}, "mount_point": "/etc"}, OWNER, "cannot be mounted"),
    ],
    ids=["of root", "of somebody else", "without an image", "over the image"],
)
async def test_what_no_container_is_made_of_is_said_and_nothing_is_left(
    tmp_path: Path, podman: dict[str, object], owner: int, says: str
) -> None:
    async with started(tmp_path, podman=podman) as rig:
        owned(rig.project_dir, owner)
        async with talk(rig) as project:
            status = await project.status(state="quarantined")
            assert says in status["reason"]
            assert rig.containers() == []
            owned(rig.project_dir)
            assert (await project.call("listAudit", limit=100))["records"]


async def test_a_state_directory_the_agent_could_replace_is_refused(tmp_path: Path) -> None:
    theirs = owned(tmp_path / "theirs")
    state = theirs / "state"
    async with contained_rig(tmp_path, state_dir=str(state), **QUICK) as rig:
        rig.state_dir = state
        await rig.start()
        async with talk(rig) as project:
            status = await project.status(state="quarantined")
            assert "could be replaced by the agent's user" in status["reason"]
            assert rig.containers() == []


async def test_a_project_that_becomes_a_symlink_is_not_mounted(tmp_path: Path) -> None:
    async with started(tmp_path) as rig, talk(rig) as project:
        await project.ready()
        await project.call("stopProject")
        other = owned(tmp_path / "other")
        shutil.rmtree(rig.project_dir)
        rig.project_dir.symlink_to(other)
        await project.call("restartProject")
        status = await project.status(state="quarantined")
        assert "is a symlink" in status["reason"]
        assert rig.containers() == []


async def test_without_podman_the_supervisor_says_so_and_does_not_start(tmp_path: Path) -> None:
    missing = {"program": str(tmp_path / "nowhere")}
    async with contained_rig(tmp_path, podman=missing) as rig:
        with pytest.raises(AssertionError, match=r"there is no .*nowhere to run"):
            await rig.start()
        assert rig.reap() != 0
