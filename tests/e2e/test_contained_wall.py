"""Codex's own sandbox in the container: wanted, required, or done without where it cannot be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from tests.containers import require_podman, without_namespaces
from tests.rig import Rig, contained_rig
from tests.talk import Talk, talk

pytestmark = pytest.mark.codex

WALLED = {"sandbox": "workspace-write", "approvalPolicy": "never"}
QUICK = {"restart": {"base_seconds": 0.01, "cap_seconds": 0.05}}


@asynccontextmanager
async def contained(root: Path, **podman: object) -> AsyncIterator[tuple[Rig, Talk]]:
    async with contained_rig(root, podman=podman, **QUICK) as rig:
        await rig.start()
        async with talk(rig) as project:
            yield rig, project


async def test_it_holds_and_keeps_commands_from_what_is_not_the_project(tmp_path: Path) -> None:
    async with contained(tmp_path, inner_wall="require") as (rig, project):
        thread = await project.thread(WALLED)
        await project.run(thread, "mock:exec cmd='touch mine; touch /codex/yours'; mock:text n=1")
        assert [path.name for path in rig.project_dir.iterdir()] == ["mine"]
        home = rig.state_dir / "projects" / project.project / "codex-home"
        assert not (home / "yours").exists()
        status = await project.call("projectStatus")
        assert status["innerWall"] == {"state": "holds", "reason": ""}
        assert status["restarts"] == 0


async def test_preferred_and_not_to_be_had_it_is_done_without_and_said(tmp_path: Path) -> None:
    conf = without_namespaces(tmp_path, require_podman(tmp_path))
    wished = {"inner_wall": "prefer", "containers_conf": str(conf)}
    async with contained(tmp_path, **wished) as (rig, project):
        await project.told("supervisor/agentReady", generation=2)
        thread = await project.thread({"approvalPolicy": "never"})
        await project.run(thread, "mock:exec cmd='touch made'; mock:text n=1")
        assert (rig.project_dir / "made").exists()
        wall = (await project.call("projectStatus"))["innerWall"]
        assert wall["state"] == "missing"
        assert "bwrap" in wall["reason"]


async def test_required_and_not_to_be_had_nothing_runs(tmp_path: Path) -> None:
    conf = without_namespaces(tmp_path, require_podman(tmp_path))
    wished = {"inner_wall": "require", "containers_conf": str(conf)}
    async with contained(tmp_path, **wished) as (rig, project):
        status = await project.status(state="quarantined")
        assert "sandbox does not work" in status["reason"]
        with pytest.raises(SupervisorError) as refused:
            await project.thread(WALLED)
        assert refused.value.code is ErrorCode.AGENT_QUARANTINED
        assert rig.containers() == []
