"""More than there is: whoever takes it harms itself at most, and its neighbour goes on."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.containers import OWNER
from tests.rig import FREE, Rig, contained_rig
from tests.talk import Talk, talk

pytestmark = pytest.mark.codex

MIB = 1 << 20
PAUSE, STOP, WINDOW = 16 * MIB, 256 * MIB, 8 * MIB
BOUNDS = {
    "spool_backlog_pause_bytes": PAUSE,
    "spool_backlog_stop_bytes": STOP,
    "replay_window_bytes": WINDOW,
}
# Memory that no process seems to have: whom the kernel ends for it, is for the kernel to say.
HIDDEN = """
import os
fd, some = os.memfd_create("hidden"), bytes(1 << 20)
while True:
    os.write(fd, some)
"""


@asynccontextmanager
async def neighbour(rig: Rig) -> AsyncIterator[Talk]:
    """Another project of the same user, whose agent is up."""
    other = rig.root / "neighbour"
    other.mkdir()
    os.chown(other, OWNER, OWNER)
    own, rig.project_dir = rig.project_dir, other
    async with talk(rig) as made:
        rig.project_dir = own
        await made.ready()
        yield made


def disk_of(directory: Path) -> int:
    """Bytes that its files take."""
    sizes = []
    for path in directory.rglob("*"):
        try:
            sizes.append(path.lstat().st_blocks * 512)
        except FileNotFoundError:
            continue
    return sum(sizes)


async def test_ten_gigabytes_on_one_line_are_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    limits = {"limits": {"memory_bytes": 256 * MIB}}
    async with contained_rig(tmp_path, podman=limits, **BOUNDS) as rig:
        await rig.start()
        async with talk(rig) as project, neighbour(rig) as other:
            assert rig.process is not None
            supervisor = psutil.Process(rig.process.pid)
            before = supervisor.memory_info().rss
            thread, quiet = await project.thread(FREE), await other.thread(FREE)
            line = "head -c 10000000000 /dev/zero | tr '\\\\0' x"
            turn = await project.send(
                thread, f'mock:exec cmd="{line}" yield_ms=4000; mock:text n=1'
            )
            most_memory = most_disk = 0
            while not project.reader.ends(turn):
                await other.run(quiet, "mock:text n=1")
                most_memory = max(most_memory, supervisor.memory_info().rss - before)
                most_disk = max(most_disk, disk_of(rig.state_dir / "projects"))
            assert (await other.ready())["generation"] == 1
            # Either: codex said no more than it thought fit, or it was stopped for what it said.
            assert project.reader.ends(turn)[0] in ("completed", "interrupted")
            await project.ready()
        assert most_memory < 192 * MIB
        assert most_disk < STOP + PAUSE + WINDOW + 64 * MIB


async def test_memory_without_an_owner_costs_nobody_else_anything(tmp_path: Path) -> None:
    limits = {"limits": {"memory_bytes": 192 * MIB}}
    async with contained_rig(tmp_path, podman=limits, **BOUNDS) as rig:
        (rig.project_dir / "hidden.py").write_text(HIDDEN)
        await rig.start()
        async with talk(rig) as project, neighbour(rig) as other:
            thread, quiet = await project.thread(FREE), await other.thread(FREE)
            turn = await project.send(thread, "mock:exec cmd='python3 hidden.py'; mock:text n=1")
            assert await project.ended(turn) in ("completed", "interrupted")
            await project.ready()
            ended = [r.detail for r in await project.audit() if r.kind == "agent.exited"]
            assert all(b'"exit_kind":"oom"' in detail for detail in ended)
            await project.run(thread, "mock:text n=1")
            await other.run(quiet, "mock:text n=1")
            status = await other.ready()
            assert (status["generation"], status["restarts"]) == (1, 0)
