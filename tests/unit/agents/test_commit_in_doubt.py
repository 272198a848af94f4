"""A commit that may have been made or not is made again, and its number given to nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor.agents import starting
from supervisor.agents.carrier import Carrier
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.opening import open_ledger
from supervisor.agents.spool import SpoolPaths
from supervisor.audit import chain, record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation
from supervisor.ports.store import Batch, CommitInDoubtError
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.unit.agents.making import ME, PROJECT, line, opened, shared

LINE = line("thread/status/changed", threadId="t")
OWN = own_event("supervisor/turnSubmitted", {"threadId": "t"}, "t")


class Doubtful(MemoryStore):
    """Raises at the end of its next commits: `made` after it was made, `lost` before."""

    def __init__(self) -> None:
        super().__init__()
        self.next: list[str] = []
        self.batches: list[Batch] = []
        self.committing, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def commit(self, batch: Batch) -> None:
        how = self.next.pop(0) if self.next else None
        if how != "lost":
            await super().commit(batch)
            self.batches.append(batch)
        self.committing.set()
        await self.go.wait()  # made, and its maker does not know yet
        if how is not None:
            raise CommitInDoubtError("the commit failed at its end")


class World:
    """A project in its first generation, which has said one line."""

    def __init__(self, root: Path, carrier: Carrier) -> None:
        self.store, self.clock = Doubtful(), FakeClock()
        self.shared = shared(root, self.store, self.clock)
        self.carrier = carrier
        self.spool = SpoolPaths(root / "projects" / PROJECT, Generation(1)).stdout
        self.ledger: Ledger

    async def begin(self) -> None:
        await self.store.open()
        self.ledger = (await open_ledger(self.shared, PROJECT, self.carrier)).ledger
        await starting.begin(self.shared, self.ledger, Generation(1), trusted=False)
        await self.say()

    async def say(self) -> int:
        """One line, taken in as lines are: not while a barrier is under way."""
        with self.spool.open("ab") as spool:
            spool.write(LINE + b"\n")
        async with self.ledger.order:
            n = self.ledger.next_n
            self.ledger.ingest([LINE])
            return n

    async def pass_doubt(self, doubts: int) -> None:
        """Let the pause before each further try pass."""
        for _ in range(doubts):
            await self.clock.wait_for_sleepers()
            self.clock.advance(1.0)

    async def own_events(self) -> dict[int, bytes]:
        return {e.n: e.message for e in (await self.store.project_state(PROJECT)).events}

    def shown(self, ledger: Ledger) -> dict[int, object]:
        """What is replayed, by number."""
        reader = ledger.reader(ledger.first_n)
        found = {}
        while entries := reader.read():
            found |= {e.n: json.loads(e.message)["method"] for e in entries if e.message}
        reader.close()
        return found


@asynccontextmanager
async def begun(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(30), Carrier() as carrier:
        made = World(tmp_path, carrier)
        await made.begin()
        yield made


DOUBTS = [["made"], ["lost"], ["made", "made"], ["made", "lost"], ["lost", "made"]]


@pytest.mark.parametrize("doubts", DOUBTS, ids="-".join)
async def test_an_event_in_doubt_keeps_its_number_and_lines_wait_for_it(
    doubts: list[str], tmp_path: Path
) -> None:
    async with begun(tmp_path) as world:
        ledger, n = world.ledger, world.ledger.next_n
        world.store.next = list(doubts)
        async with asyncio.TaskGroup() as group:
            asker = group.create_task(ledger.barrier(lambda n, at: Change(events=[OWN])))
            await world.clock.wait_for_sleepers()
            said = group.create_task(world.say())
            await world.pass_doubt(len(doubts))
        assert (asker.result(), said.result()) == (n, n + 1)
        assert (await world.own_events())[n] == OWN.message
        await ledger.flush()
        successor = await opened(world.shared)
        assert successor.discontinued is None
        assert world.shown(successor.ledger) == world.shown(ledger)
        assert list(world.shown(ledger).values())[-2:] == [
            "supervisor/turnSubmitted",
            "thread/status/changed",
        ]


@pytest.mark.parametrize("doubts", DOUBTS, ids="-".join)
async def test_an_event_in_doubt_is_published_once_and_audited_once(
    doubts: list[str], tmp_path: Path
) -> None:
    async with begun(tmp_path) as world:
        ledger = world.ledger
        payloads = aiter(ledger.fanout.subscribe(ledger, None, ledger.cursor))
        draft = record.project_stopped(ME)
        world.store.next = list(doubts)
        async with asyncio.TaskGroup() as group:
            change = Change(events=[OWN], drafts=[draft])
            group.create_task(ledger.barrier(lambda n, at: change))
            await world.pass_doubt(len(doubts))
        await world.say()
        methods = [json.loads(await anext(payloads))["message"]["method"] for _ in range(2)]
        assert methods == ["supervisor/turnSubmitted", "thread/status/changed"]
        records = await world.store.audit(PROJECT, after_seq=0, limit=100)
        end = (ledger.projection.chain.seq, ledger.projection.chain.head)
        assert chain.verify(records, end=end).ok
        assert len(records) == 2


async def test_what_is_in_doubt_is_settled_though_its_asker_goes_away(tmp_path: Path) -> None:
    async with begun(tmp_path) as world:
        world.store.next = ["made"]
        n = world.ledger.next_n
        async with asyncio.TaskGroup() as group:
            asker = group.create_task(world.ledger.barrier(lambda n, at: Change(events=[OWN])))
            await world.clock.wait_for_sleepers()
            asker.cancel()
            said = group.create_task(world.say())
            await world.pass_doubt(1)
        assert asker.cancelled()
        assert said.result() == n + 1
        assert (await world.own_events())[n] == OWN.message


async def test_a_store_that_goes_away_after_a_doubt_is_waited_for(tmp_path: Path) -> None:
    async with begun(tmp_path) as world:
        world.store.next = ["made"]
        n = world.ledger.next_n
        async with asyncio.TaskGroup() as group:
            asker = group.create_task(world.ledger.barrier(lambda n, at: Change(events=[OWN])))
            await world.clock.wait_for_sleepers()
            world.store.unavailable = True
            await world.pass_doubt(1)
            await world.clock.wait_for_sleepers()
            assert world.ledger.store_waiting
            world.store.unavailable = False
            await world.pass_doubt(1)
        assert asker.result() == n
        assert not world.ledger.store_waiting


async def test_what_was_refused_for_certain_changes_nothing_and_frees_its_number(
    tmp_path: Path,
) -> None:
    async with begun(tmp_path) as world:
        away = SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the database is locked")
        world.store.fail_next(1, away)
        n = world.ledger.next_n
        with pytest.raises(SupervisorError, match="locked"):
            await world.ledger.barrier(lambda n, at: Change(events=[OWN]))
        assert await world.say() == n
        assert n not in await world.own_events()


async def test_a_flush_in_doubt_writes_the_same_again(tmp_path: Path) -> None:
    async with begun(tmp_path) as world:
        world.store.next = ["made"]
        ledger = world.ledger
        with pytest.raises(CommitInDoubtError):
            await ledger.flush()
        first = world.store.batches[-1]
        await ledger.flush()
        assert world.store.batches[-1].threads.keys() >= first.threads.keys()
        assert world.store.batches[-1].checkpoint == first.checkpoint
        assert (await opened(world.shared)).discontinued is None


async def test_a_barrier_cancelled_in_its_commit_is_published_all_the_same(tmp_path: Path) -> None:
    async with begun(tmp_path) as world:
        ledger, n = world.ledger, world.ledger.next_n
        world.store.committing.clear()
        world.store.go.clear()
        async with asyncio.TaskGroup() as group:
            asker = group.create_task(ledger.barrier(lambda n, at: Change(events=[OWN])))
            await world.store.committing.wait()
            asker.cancel()
            said = group.create_task(world.say())
            await asyncio.sleep(0)
            world.store.go.set()
        assert said.result() == n + 1
        assert world.shown(ledger)[n] == "supervisor/turnSubmitted"


class AgentEndError(Exception):
    """Whatever ends an agent."""


async def test_an_agent_that_ends_in_a_commit_publishes_what_it_committed(tmp_path: Path) -> None:
    with pytest.RaisesGroup(AgentEndError):
        async with begun(tmp_path) as world:
            ledger, n = world.ledger, world.ledger.next_n
            world.store.committing.clear()
            world.store.go.clear()
            asked = world.carrier.begin(ledger.barrier(lambda n, at: Change(events=[OWN])))
            await world.store.committing.wait()
            asyncio.get_running_loop().call_soon(world.store.go.set)
            raise AgentEndError
    assert (await world.own_events())[n] == OWN.message
    assert (ledger.next_n, asked.done()) == (n + 1, True)
    assert world.shown(ledger)[n] == "supervisor/turnSubmitted"


@pytest.mark.parametrize("moved", [{"offset": 1}, {"generation": Generation(9)}], ids=str)
async def test_an_event_that_is_not_where_it_was_told_renews_the_epoch(
    moved: dict[str, object], tmp_path: Path
) -> None:
    async with begun(tmp_path) as world:
        n = await world.ledger.barrier(lambda n, at: Change(events=[OWN]))
        await world.say()
        await world.ledger.flush()
        (row,) = [e for e in (await world.store.project_state(PROJECT)).events if e.n == n]
        elsewhere = msgspec.structs.replace(row, **moved)
        await world.store.commit(Batch(project=PROJECT, events=[elsewhere]))
        assert (await opened(world.shared)).discontinued


async def test_a_generation_begins_with_its_commit_and_not_before(tmp_path: Path) -> None:
    """What is flushed while its beginning waits for the store belongs to the one before."""
    async with begun(tmp_path) as world:
        ledger = world.ledger
        away = SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the database is locked")
        world.store.fail_next(1, away)
        async with asyncio.TaskGroup() as group:
            beginning = group.create_task(
                starting.begin(world.shared, ledger, Generation(2), trusted=False)
            )
            await world.clock.wait_for_sleepers()
            await ledger.flush()
            successor = await opened(world.shared)
            assert successor.discontinued is None
            assert successor.ledger.log.generation == ledger.log.generation == 1
            world.clock.advance(1.0)
            await beginning
        assert ledger.log.generation == 2
