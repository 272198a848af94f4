"""Any image will do that can run a static binary: one in which there is nothing at all."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import require_podman
from tests.rig import contained_rig
from tests.talk import talk

pytestmark = pytest.mark.codex


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[str]:
    """The name of an image without a file."""
    env = dict(require_podman(tmp_path))
    name = f"localhost/codex-supervisor-test:{tmp_path.parent.name}-{tmp_path.name}".lower()
    archive = tmp_path / "empty.tar"
    subprocess.run(["tar", "-cf", archive, "-T", "/dev/null"], check=True)
    made = ["podman", "import", "--quiet", str(archive), name]
    subprocess.run(made, env=env, check=True, capture_output=True)
    yield name
    subprocess.run(["podman", "image", "rm", name], env=env, check=True, capture_output=True)


async def test_an_agent_works_in_an_image_without_a_file(tmp_path: Path, empty: str) -> None:
    async with contained_rig(tmp_path, podman={"image": empty}) as rig:
        await rig.start()
        async with talk(rig) as project:
            await project.run(await project.thread(), "mock:text n=5")
            status = await project.ready()
            assert (status["generation"], status["restarts"]) == (1, 0)
            assert status["confinement"]["doubts"] == []
            root = Path(f"/proc/{status['pid']}/root")
            assert not (root / "bin").exists()
            assert not (root / "usr").exists()
