"""What the real codex does when its CODEX_HOME is full: docs/disk.md says it, this shows it."""

import asyncio
import errno
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest
from codex_cli_bin import bundled_codex_path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.disk_image import Mounted, Volume, mount, unmount
from supervisor.runtimes.disk_tools import doubt
from supervisor.testing.driver import BareAppServer, Message, accept
from supervisor.testing.model import ScriptedModel, codex_overrides
from tests.conftest import require

pytestmark = pytest.mark.codex

DEADLINE = 60
FULL_ACCESS = {"sandbox": "danger-full-access", "approvalPolicy": "never"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A CODEX_HOME of 24 MiB."""
    require(not doubt(), f"what images need: {doubt()}")
    directory = tmp_path / "codex-home"
    directory.mkdir()
    volume = Volume(directory=directory, image=tmp_path / "home.ext4", size=24 << 20)
    assert isinstance(mount(volume), Mounted)
    yield directory
    assert unmount(volume) == ""


def fill(home: Path) -> None:
    with (home / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            assert _room_ends(file, size) == errno.ENOSPC


def _room_ends(file: FileIO, size: int) -> int | None:
    try:
        while True:
            file.write(b"x" * size)
    except OSError as error:
        return error.errno


def status_of(messages: list[Message]) -> str:
    return str(messages[-1]["params"]["turn"]["status"])


def warnings_in(messages: list[Message]) -> list[str]:
    return [each["params"]["message"] for each in messages if each["method"] == "warning"]


async def test_turns_go_on_in_a_full_home_and_codex_warns_of_it(home: Path, tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE), ScriptedModel() as model:
        codex, overrides = bundled_codex_path(), codex_overrides(model.base_url)
        async with BareAppServer.codex(codex, home, tmp_path, overrides, answer=accept) as server:
            started = await server.request("thread/start", {"cwd": str(tmp_path), **FULL_ACCESS})
            thread = str(started["thread"]["id"])
            assert status_of(await server.turn(thread, "while there is room")) == "completed"
            fill(home)
            full = await server.turn(thread, "without any room")
            assert status_of(full) == "completed"
            assert any("No space left on device" in each for each in warnings_in(full))
            (home / "filler").unlink()
            freed = await server.turn(thread, "with room again")
            assert status_of(freed) == "completed"
            assert warnings_in(freed) == []


async def test_codex_does_not_start_in_a_full_home(home: Path, tmp_path: Path) -> None:
    fill(home)
    async with asyncio.timeout(DEADLINE), ScriptedModel() as model:
        codex, overrides = bundled_codex_path(), codex_overrides(model.base_url)
        with pytest.raises(SupervisorError, match="failed to initialize sqlite") as caught:
            async with BareAppServer.codex(codex, home, tmp_path, overrides):
                pass
    assert caught.value.code is ErrorCode.CONNECTION_LOST
