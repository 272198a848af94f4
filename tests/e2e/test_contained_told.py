"""What stands around a contained agent is told to people: by `status`, and by `doctor`."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.settings_sources import to_toml
from tests.containers import IMAGE, require_podman, without_namespaces
from tests.rig import Rig, contained_rig
from tests.talk import Talk, talk
from tests.terminals import completed

pytestmark = pytest.mark.codex

BARE = "FROM {}\nUSER 0\nRUN rm /usr/bin/bwrap\n"


@asynccontextmanager
async def contained(root: Path, **podman: object) -> AsyncIterator[tuple[Rig, Talk]]:
    restart = {"base_seconds": 0.01, "cap_seconds": 0.05}
    async with contained_rig(root, podman=podman, restart=restart) as rig:
        await rig.start()
        async with talk(rig) as project:
            await project.ready()
            yield rig, project


async def told(rig: Rig, *words: str) -> str:
    """What a command says to a person."""
    config = rig.root / "config.toml"
    config.write_text(to_toml(rig.settings))
    said = await asyncio.to_thread(completed, {}, "--config", str(config), *words)
    return " ".join(said.stdout.decode().split())


async def test_a_sound_one_is_said_to_be_so(tmp_path: Path) -> None:
    async with contained(tmp_path, inner_wall="require") as (rig, project):
        container = (await project.ready())["confinement"]["container"]
        said = await told(rig, "status", project.project)
        assert f"container {container[:12]} limits hold its stdio out of reach" in said
        assert "inner wall holds" in said
        assert "1 containers run, and it holds in each" in await told(rig, "doctor")


async def test_a_missing_inner_wall_is_named(tmp_path: Path) -> None:
    conf = without_namespaces(tmp_path, require_podman(tmp_path))
    wished = {"inner_wall": "prefer", "containers_conf": str(conf)}
    async with contained(tmp_path, **wished) as (rig, project):
        await project.told("supervisor/agentReady", generation=2)
        said = await told(rig, "status", project.project)
        assert "inner wall missing bwrap: " in said
        checks = json.loads(await told(rig, "--output", "json", "doctor"))["checks"]
        (wall,) = [one for one in checks if one["check"] == "inner wall"]
        assert wall["verdict"] == "warn"
        assert wall["says"].startswith(f"{project.project} missing (bwrap: ")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[str]:
    """An image with a shell and without bubblewrap."""
    env = dict(require_podman(tmp_path))
    name = f"localhost/codex-supervisor-test:{tmp_path.parent.name}-{tmp_path.name}".lower()
    (tmp_path / "Containerfile").write_text(BARE.format(IMAGE))
    build = ["podman", "build", "--quiet", "--pull=never", "--network", "none", "--tag", name]
    subprocess.run([*build, str(tmp_path)], env=env, check=True, capture_output=True)
    yield name
    subprocess.run(["podman", "image", "rm", name], env=env, check=True, capture_output=True)


async def test_an_image_without_bubblewrap_has_an_inner_wall_by_codexs_own(
    tmp_path: Path, bare: str
) -> None:
    async with contained(tmp_path, image=bare, inner_wall="require") as (_, project):
        assert (await project.ready())["innerWall"] == {"state": "holds", "reason": ""}
