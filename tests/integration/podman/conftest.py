"""A podman runtime for one test, and nothing left of it after."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.runtimes.podman import PodmanRuntime
from tests.containers import Boxes, keepers, require_podman
from tests.contract.scripted import Scripts, until


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, f"podman-{os.getpid()}-{tmp_path.name}")


@pytest.fixture
async def boxes(tmp_path: Path, scripts: Scripts) -> AsyncIterator[Boxes]:
    made = Boxes(tmp_path, require_podman(tmp_path))
    before = made.forgotten()
    yield made
    assert made.of(scripts.marker) == []
    # Podman forgets some that are there still; what others are about to remove has gone soon.
    await until(lambda: made.forgotten() <= before)
    made.podman.close()


@pytest.fixture
async def runtime(boxes: Boxes, scripts: Scripts) -> AsyncIterator[PodmanRuntime]:
    made = boxes.runtime()
    yield made
    await made.sweep(scripts.marker)
    assert keepers(scripts.marker) == set()
