"""Disk is given back behind both the checkpoint and the replay window, and nothing else is."""

import asyncio
import json
from pathlib import Path

import pytest

from supervisor.agents.spool import punch
from tests.integration.hosted import Hosted, hosted, raw, watching
from tests.integration.serving import until

MIB = 1024 * 1024
WINDOW = 2 * MIB
PIECE = 1000
LINE = (
    b'{"method":"item/agentMessage/delta","params":{"threadId":"@T@","turnId":"@U@",'
    b'"itemId":"i","delta":"@N@ %b"}}\n' % (b"x" * PIECE)
)
LINES = 6000
"""More than two windows and what is given back at once."""


@pytest.fixture(autouse=True)
def holes(tmp_path: Path) -> None:
    target = tmp_path / "probe"
    target.write_bytes(b"x" * 65536)
    if not punch(target, 65536) or target.stat().st_blocks * 512 >= 65536:
        pytest.skip("this file system punches no holes")


def kept(spool: Path) -> int:
    """Bytes of disk."""
    return spool.stat().st_blocks * 512


async def until_status(host: Hosted, project: str, **wanted: object) -> None:
    while True:
        status = await host.call(project, "projectStatus")
        if wanted.items() <= status.items():
            return
        await asyncio.sleep(0.01)


async def flood(host: Hosted, project: str, thread: str) -> str:
    """A turn that says much more than the window holds; the cursor before it."""
    before = str((await host.call(project, "projectStatus"))["cursor"])
    await host.send(project, thread, raw(LINE, LINES))
    await until_status(host, project, activeTurns=0)
    await host.call(project, "listAudit", limit=1)  # commits, and gives back behind it
    return before


async def first_kinds(host: Hosted, project: str, after: str) -> list[str]:
    async with watching(host, project, after=after) as seen:
        await seen.until(lambda s: len(s.payloads) >= 2)
        return [json.loads(payload)["type"] for payload in seen.payloads[:2]]


async def replay(host: Hosted, project: str, count: int) -> list[bytes]:
    """The last `count` messages, told from a cursor."""
    epoch, last = (await host.call(project, "projectStatus"))["cursor"].split(".")
    async with watching(host, project, after=f"{epoch}.{int(last) - count}") as seen:
        await seen.until(lambda s: len(s.payloads) >= count)
        assert [n for n, _ in seen.events] == list(range(int(last) - count + 1, int(last) + 1))
        return [message for _, message in seen.events]


async def test_a_long_spool_costs_no_more_disk_than_its_window_which_is_replayed_exactly(
    tmp_path: Path,
) -> None:
    settings = {"punch_spools": True, "replay_window_bytes": WINDOW, "on_shutdown": "keep"}
    async with hosted(tmp_path, **settings) as host:
        project = await host.open("p")
        before = await flood(host, project, await host.thread(project))
        spool = host.spool(project)
        assert spool.stat().st_size > 2 * WINDOW
        assert kept(spool) < spool.stat().st_size - 2 * MIB
        assert kept(spool) >= WINDOW // 2, "the window is kept"
        assert await first_kinds(host, project, before) == ["expired", "snapshot"]
        assert await replay(host, project, 1000) == host.spooled(project)[-1000:]
        lines = host.spooled(project)[-1000:]
        epoch, end = (await host.call(project, "projectStatus"))["cursor"].split(".")
    async with hosted(tmp_path, **settings | {"on_shutdown": "stop"}) as host:
        # What the successor says of itself comes behind it.
        async with watching(host, project, after=f"{epoch}.{int(end) - 1000}") as seen:
            await seen.until(lambda s: len(s.payloads) >= 1000)
            told = [message for _, message in seen.events[:1000]]
        assert told == lines
        assert await first_kinds(host, project, before) == ["expired", "snapshot"]


async def test_nothing_is_given_back_that_a_client_may_still_ask_for(tmp_path: Path) -> None:
    async with hosted(tmp_path, punch_spools=True, replay_window_bytes=64 * MIB) as host:
        project = await host.open("p")
        before = await flood(host, project, await host.thread(project))
        spool = host.spool(project)
        assert kept(spool) >= spool.stat().st_size
        assert await replay(host, project, LINES) == host.spooled(project)[-LINES:]
        assert await first_kinds(host, project, before) == ["event", "event"]


async def test_the_files_of_generations_that_left_the_window_are_removed(tmp_path: Path) -> None:
    async with hosted(tmp_path, punch_spools=True, replay_window_bytes=WINDOW) as host:
        project = await host.open("p")
        thread = await host.thread(project)
        old = await flood(host, project, thread)
        await host.call(project, "restartProject")
        await until_status(host, project, generation=2)
        assert host.spool(project, 1).exists(), "its end is in the window still"
        await host.call(project, "pingProject")
        await flood(host, project, thread)
        await until(lambda: not host.spool(project, 1).parent.exists())
        assert host.spool(project, 2).exists()
        assert await first_kinds(host, project, old) == ["expired", "snapshot"]
