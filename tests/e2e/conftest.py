"""A running supervisor with the real codex, and somebody who talks to a project of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rig import Rig, rig
from tests.talk import Talk, talk


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        await made.start()
        yield made


@pytest.fixture
async def project(running: Rig) -> AsyncIterator[Talk]:
    async with talk(running) as made:
        yield made
