"""A podman runtime for one test, and nothing left of it after."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisor.runtimes.podman import PodmanRuntime
from tests.containers import Boxes, keepers, require_podman
from tests.contract.scripted import Scripts


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, f"podman-{os.getpid()}-{tmp_path.name}")


@pytest.fixture
def boxes(tmp_path: Path, scripts: Scripts) -> Iterator[Boxes]:
    made = Boxes(tmp_path, require_podman(tmp_path))
    before = made.of_oci()
    yield made
    assert made.of(scripts.marker) == []
    # Not podman's alone: it forgets some that are there still.
    assert made.of_oci() <= before
    made.podman.close()


@pytest.fixture
async def runtime(boxes: Boxes, scripts: Scripts) -> AsyncIterator[PodmanRuntime]:
    made = boxes.runtime()
    yield made
    await made.sweep(scripts.marker)
    assert keepers(scripts.marker) == set()
