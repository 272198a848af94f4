"""A process over its disk bound, with real signals and a real tree: stopped, let run, ended."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from supervisor.agents.disk_guard import DiskGuard, Held
from supervisor.agents.pauses import PauseReason, Pauses
from supervisor.clock import SystemClock
from supervisor.ports.runtime import Exit, Process
from supervisor.runtimes.disk import DiskBounds
from supervisor.runtimes.host import HostRuntime
from supervisor.settings_groups import DiskSettings
from tests.contract.scripted import Scripts, said, soon, until

MIB = 1 << 20


class Guarded:
    """A process that a guard watches, and what became of it."""

    def __init__(self, process: Process, project: Path) -> None:
        self.process = process
        self.pauses = Pauses(process)
        self.full: list[str] = []
        self.large = project / "large"

    def fill(self) -> None:
        self.large.write_bytes(b"x" * 16 * MIB)

    def is_stopped(self) -> bool:
        status = psutil.Process(self.process.identity.pid).status()
        return status == psutil.STATUS_STOPPED


@asynccontextmanager
async def guarded(scripts: Scripts, grace: float) -> AsyncIterator[Guarded]:
    runtime, clock = HostRuntime(), SystemClock()
    launch = scripts.launch("echo up; exec sleep 600")
    settings = DiskSettings(mode="watch", project_bytes=8 * MIB)
    project = scripts.project
    bounds = DiskBounds(settings, lambda _: project.parent, lambda _: project, clock)
    try:
        process = await runtime.start(launch)
        await said(launch, "up")
        made = Guarded(process, project)
        trees = [t for t in await bounds.watched(launch.project, project) if t.bound == 8 * MIB]
        guard = DiskGuard(
            Held(made.pauses, process, made.full.append),
            bounds,
            trees,
            clock,
            check_seconds=0.05,
            grace_seconds=grace,
        )
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(guard.run())
            yield made
            watching.cancel()
    finally:
        await runtime.sweep(scripts.marker)


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, f"disk-{os.getpid()}-{tmp_path.name}")


async def test_it_stands_still_until_space_is_freed(scripts: Scripts) -> None:
    async with guarded(scripts, grace=3600) as agent:
        agent.fill()
        await until(agent.is_stopped)
        assert agent.pauses.words is not None
        assert "of 8.0 MiB" in agent.pauses.words
        agent.large.unlink()
        await until(lambda: not agent.is_stopped())
        assert agent.pauses.words is None


async def test_it_stands_still_while_something_else_holds_it(scripts: Scripts) -> None:
    async with guarded(scripts, grace=3600) as agent:
        await agent.pauses.hold(PauseReason.SPOOL, "its spool")
        agent.fill()
        await until(lambda: "8.0 MiB" in (agent.pauses.words or ""))
        agent.large.unlink()
        await until(lambda: agent.pauses.words == "its spool")
        assert agent.is_stopped()
        await agent.pauses.let_go(PauseReason.SPOOL)
        await until(lambda: not agent.is_stopped())


async def test_it_is_ended_with_the_reason_when_nobody_frees_any(scripts: Scripts) -> None:
    async with guarded(scripts, grace=0.3) as agent:
        agent.fill()
        assert await soon(agent.process.wait()) == Exit(signal=9)
        assert len(agent.full) == 1
        assert agent.full[0].startswith("the project uses at least ")
        assert agent.full[0].endswith(" of 8.0 MiB")
