"""A container whose directories are bounded by images: mounted before it, full inside, let go."""

import os
from pathlib import Path

from supervisor.clock import SystemClock
from supervisor.runtimes.disk import DiskBounds
from supervisor.runtimes.disk_tools import doubt
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.settings_groups import DiskSettings
from tests.conftest import require
from tests.containers import OWNER, Boxes
from tests.contract.scripted import Scripts, said, soon

MIB = 1 << 20
# Writes until there is no room, in both places, and lives on.
FILL = """
for place in /codex "$PWD"; do
    dd if=/dev/zero of="$place/filler" bs=1M 2>&1 | grep -o 'No space left on device'
    ls -A "$place"
done
echo alive; read -r line
"""


async def test_a_container_fills_what_it_may_and_lives_on(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    require(not doubt(), f"what images need: {doubt()}")
    launch = scripts.launch(FILL)
    settings = DiskSettings(mode="image", home_bytes=32 * MIB, project_bytes=48 * MIB)
    home = boxes.settings.codex_home
    bounds = DiskBounds(settings, lambda _: tmp_path, lambda _: home, SystemClock())
    marker = f"state:{launch.project}:1"
    os.chown(launch.directory, OWNER, OWNER)
    try:
        bounds.prepare(launch.project, launch.directory, marker)
        process = await runtime.start(launch)
        await said(launch, "alive")
        full = "No space left on device\nfiller\n"
        assert launch.stdout.read_text() == f"{full}{full}alive\n"
        assert 24 * MIB < (home / "filler").stat().st_size < 32 * MIB
        assert 32 * MIB < (launch.directory / "filler").stat().st_size < 48 * MIB
        await soon(process.kill_tree())
    finally:
        await runtime.sweep(scripts.marker)
        left = bounds.release_of(marker)
        left += bounds.release_project(launch.project, launch.directory)
    assert left == ""
    assert list(home.iterdir()) == list(launch.directory.iterdir()) == []
