"""App-servers in containers: their start, many at once, and what each takes beside Codex."""

import asyncio
import contextlib
import os
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import psutil

from tests.bench.lifetimes import MIB, all_ready, started
from tests.bench.requests import contained_reads
from tests.bench.rows import Figure, Promise, Row
from tests.bench.sizes import Size
from tests.bench.stage import Stage, Supervised, stopwatch
from tests.containers import OWNER

PART = "containers"
CONMON, INIT = "conmon", "podman-init"


async def containers(stage: Stage, size: Size) -> list[Row]:
    """All of it."""
    async with stage.contained() as supervised:
        theirs, ours = await started(stage, supervised, size.starts)
    return [
        Row(
            part=PART,
            what="an agent in podman, from asked for to answering",
            unit="s",
            ours=median(ours),
            beside="spawn to initialize",
            reference=median(theirs),
            promise=Promise(Figure.RATIO, 1.6),
            note="podman's own processes are most of it",
        ),
        *await _many(stage, size.containers),
        *await contained_reads(stage, size),
    ]


async def _many(stage: Stage, count: int) -> list[Row]:
    bare = await _bare_at_once(stage, count)
    directory = stage.directory("contained")
    async with stage.contained() as supervised:
        await all_ready(supervised, 1)
        alone = supervised.memory_bytes()
        paths = [_project(directory / f"project-{n}") for n in range(count)]
        with stopwatch() as spent:
            async with asyncio.TaskGroup() as group:
                for path in paths:
                    group.create_task(_open(supervised, path))
            await all_ready(supervised, count + 1)
            taken = spent()
        grown = (supervised.memory_bytes() - alone) / count / MIB
        beside = _beside_codex(supervised) / (count + 1) / MIB
    return [
        Row(
            part=PART,
            what=f"{count} agents in podman at once",
            unit="s",
            ours=taken,
            beside=f"{count} bare at once",
            reference=bare,
        ),
        Row(
            part=PART,
            what="memory for each agent in podman beyond Codex's own",
            unit="MiB",
            ours=max(grown, 0) + beside,
            promise=Promise(Figure.OURS, 3),
            note=f"PSS; of it {beside:.2f} MiB conmon and the init, the rest the supervisor",
        ),
    ]


async def _bare_at_once(stage: Stage, count: int) -> float:
    async with AsyncExitStack() as stack:
        with stopwatch() as spent:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(stack.enter_async_context(stage.bare()))
            return spent()


def _project(path: Path) -> Path:
    path.mkdir()
    os.chown(path, OWNER, OWNER)
    return path


async def _open(supervised: Supervised, path: Path) -> None:
    async with supervised.dial() as client:
        await client.call(None, "openProject", {"path": str(path)})


def _beside_codex(supervised: Supervised) -> int:
    """Bytes of the processes that stand around all app-servers, shared pages shared out."""
    containers, total = set(supervised.containers()), 0
    ours = {process.pid for process in supervised.processes()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == CONMON:
                counts = not containers.isdisjoint(process.cmdline())
            else:
                counts = process.name() == INIT and process.pid in ours
            total += process.memory_full_info().pss if counts else 0
    assert total, "nothing stands around them"
    return total
