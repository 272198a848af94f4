"""The disk guard: whom it pauses, lets run and stops, and what it says of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.agents.condition import Condition
from supervisor.agents.disk_guard import DiskGuard, excess, guard_disk, size
from supervisor.ids import ProjectId
from supervisor.lifecycle.agent import AgentEvent
from supervisor.ports.disk import DiskUse, WatchedTree
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.unit.agents import making

GIB = 1 << 30
PROJECT = WatchedTree(name="the project", directory=Path("/p"), bound=10 * GIB)
HOME = WatchedTree(name="CODEX_HOME", directory=Path("/h"), bound=2 * GIB)
SMALL = DiskUse(verdict="within", bytes=GIB, files=10)
LARGE = DiskUse(verdict="over", bytes=11 * GIB, files=10)


class Disk:
    """Says of each tree what the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.uses = {PROJECT.name: SMALL, HOME.name: SMALL}
        self.looks = 0
        self.seconds = 0.0
        self._clock = clock

    async def watched(self, project: ProjectId, directory: Path) -> Sequence[WatchedTree]:
        return [PROJECT, HOME]

    async def measure(self, tree: WatchedTree) -> DiskUse:
        if self.seconds:
            await self._clock.sleep(self.seconds)
        self.looks += 1
        return self.uses[tree.name]


class Agent:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def pause(self, reason: str) -> None:
        self.told.append(f"pause: {reason}")

    async def unpause(self) -> None:
        self.told.append("unpause")

    async def stop(self, reason: str) -> None:
        self.told.append(f"stop: {reason}")


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.disk = Disk(self.clock)
        self.agent = Agent()

    def guard(self, *trees: WatchedTree) -> DiskGuard:
        return DiskGuard(
            self.agent, self.disk, trees, self.clock, check_seconds=30, grace_seconds=60
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The guard, after its first look."""
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.guard(PROJECT, HOME).run())
            await self.clock.wait_for_sleepers()
            yield task
            task.cancel()

    async def later(self, seconds: float) -> None:
        """What is due by then has been done."""
        self.clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_an_agent_within_its_bounds_is_left_alone(stage: Stage) -> None:
    async with stage.running():
        for _ in range(10):
            await stage.later(30)
    assert stage.agent.told == []
    assert stage.disk.looks == 22


async def test_one_over_a_bound_is_paused_then_stopped_with_the_reason(stage: Stage) -> None:
    async with stage.running() as guard:
        stage.disk.uses[PROJECT.name] = LARGE
        await stage.later(30)
        assert stage.agent.told == ["pause: the project uses at least 11.0 GiB of 10.0 GiB"]
        await stage.later(30)
        await stage.later(29)
        assert not [told for told in stage.agent.told if told.startswith("stop")]
        await stage.later(1)
        assert stage.agent.told[-1] == "stop: the project uses at least 11.0 GiB of 10.0 GiB"
        async with asyncio.timeout(30):
            while not guard.done():
                await stage.later(30)
    assert [told for told in stage.agent.told if told.startswith("stop")] == stage.agent.told[-1:]


async def test_one_whose_space_was_freed_runs_again_and_has_a_whole_grace_again(
    stage: Stage,
) -> None:
    async with stage.running():
        stage.disk.uses[HOME.name] = LARGE
        await stage.later(30)
        await stage.later(30)
        stage.disk.uses[HOME.name] = SMALL
        await stage.later(30)
        assert stage.agent.told[-1] == "unpause"
        stage.disk.uses[HOME.name] = LARGE
        await stage.later(30)
        await stage.later(30)
    assert stage.agent.told[-1] == "pause: CODEX_HOME uses at least 11.0 GiB of 2.0 GiB"
    assert not [told for told in stage.agent.told if told.startswith("stop")]


async def test_a_look_that_began_before_the_grace_ended_stops_nobody(stage: Stage) -> None:
    async with stage.running():
        stage.disk.uses[PROJECT.name] = LARGE
        await stage.later(30)
        # Whatever this look sees was so half a minute before the end; it takes a minute.
        stage.disk.seconds = 60
        await stage.later(30)
        await stage.later(60)
        assert not [told for told in stage.agent.told if told.startswith("stop")]
        await stage.later(60)
    assert stage.agent.told[-1].startswith("stop")


async def test_without_trees_it_ends_at_once(stage: Stage) -> None:
    async with asyncio.timeout(30):
        await stage.guard().run()
    assert stage.disk.looks == 0


async def test_nobody_is_paused_who_has_yet_to_answer_the_handshake(
    stage: Stage, tmp_path: Path
) -> None:
    stage.disk.uses[PROJECT.name] = LARGE
    shared = making.shared(tmp_path, MemoryStore(), stage.clock, disk={"check_seconds": 7})
    condition = Condition(shared.metrics)
    condition.move(AgentEvent.START)
    guarding = guard_disk(
        shared,
        stage.disk,
        stage.agent,
        condition,
        project=ProjectId("p"),
        directory=PROJECT.directory,
    )
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(guarding)
        condition.poke()
        await stage.later(100)
        assert stage.disk.looks == 0
        condition.move(AgentEvent.ANSWERED)
        await stage.clock.wait_for_sleepers()
        assert len(stage.agent.told) == 1
        await stage.later(7)
        assert len(stage.agent.told) == 2
        task.cancel()


def test_too_many_files_are_told_as_such() -> None:
    use = DiskUse(verdict="uncountable", bytes=GIB, files=20_000_001)
    assert excess(PROJECT, use) == (
        "the project has more files than can be counted (20,000,001 seen)"
    )


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_shown_for_people(count: int, shown: str) -> None:
    assert size(count) == shown
