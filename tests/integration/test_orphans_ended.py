"""Orphans are found while the supervisor runs, and what it looks after is never among them."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.settings import Settings
from tests.integration.machine import Machine, served


def settings(machine: Machine, relist_seconds: float) -> Settings:
    listed = {"relist_seconds": relist_seconds}
    return machine.settings(podman=listed, start_timeout_seconds=30)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Orphans:
    """Processes that carry a marker and belong to nobody."""

    def __init__(self) -> None:
        self.made: list[subprocess.Popen[bytes]] = []

    def make(self, marker: str) -> "subprocess.Popen[bytes]":
        environment = {"PATH": "/usr/bin:/bin", MARKER_VARIABLE: marker}
        self.made.append(subprocess.Popen(["sleep", "600"], env=environment))
        return self.made[-1]


@pytest.fixture
def orphans() -> Iterator[Orphans]:
    made = Orphans()
    yield made
    for each in made.made:
        each.kill()
        each.wait()


async def ended(process: "subprocess.Popen[bytes]") -> None:
    await asyncio.to_thread(process.wait, 30)


def marker_of(pid: int) -> str:
    return psutil.Process(pid).environ()[MARKER_VARIABLE]


async def test_orphans_are_ended_and_what_is_looked_after_or_anothers_is_not(
    machine: Machine, orphans: Orphans
) -> None:
    async with served(settings(machine, 0.02)) as host:
        project = await host.open(machine.project("a"))
        before = await host.status(project, state="ready")
        mine = marker_of(before["pid"])
        state, _, _ = mine.split(":")
        spared = orphans.make(f"{state}0:{project}:1")
        for marker in (f"{state}:{project}:77", f"{state}:nobody:1", f"{state}:strange"):
            await ended(orphans.make(marker))
        await host.turn(project)
        after = await host.status(project, state="ready")
        assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
        assert spared.poll() is None


async def test_no_start_is_taken_for_an_orphan(machine: Machine, orphans: Orphans) -> None:
    # Looked at all the time, while generations come and go.
    async with served(settings(machine, 0.001)) as host:
        project = await host.open(machine.project("a"))
        for _ in range(5):
            generation = (await host.status(project, state="ready"))["generation"]
            await host.turn(project)
            await host.call(project, "restartProject")
            await host.status(project, state="ready", generation=generation + 1)
        status = await host.status(project, state="ready")
        assert status["generation"] == 6
        assert status["restarts"] == 0
        assert host.metric('agent_exits_total{kind="asked"}') == 5
        assert host.metric('agent_exits_total{kind="crashed"}') == 0
