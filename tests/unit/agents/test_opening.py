"""Whether a successor may continue the numbers, and what it does when it may not."""

import json
from pathlib import Path

import msgspec
import pytest

from supervisor.agents import starting
from supervisor.agents.intents import intent_row
from supervisor.agents.ledger import Change, Ledger, Place, own_event
from supervisor.agents.opening import Opened, discontinuity
from supervisor.agents.spool import SpoolPaths, SpoolReader, punch
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation
from supervisor.ports.store import Batch, CheckpointRow
from supervisor.protocol.framing import LineFramer
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.contract.stored import checkpoint
from tests.unit.agents.making import ME, PROJECT, line, opened, shared

HERE = Place(host="here", boot_id="boot-1")
BLOCK = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A project's directory whose second generation has said two blocks."""
    home = SpoolPaths(tmp_path, Generation(2)).home
    home.mkdir(parents=True)
    (home / "stdout").write_bytes(b"x" * 2 * BLOCK)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "at_rest", "why"),
    [
        ({}, False, None),
        ({"offset": 2 * BLOCK}, False, None),
        ({"host": "elsewhere"}, True, "another host wrote the checkpoint"),
        ({"boot_id": "boot-0"}, False, "the machine went down uncleanly"),
        ({"boot_id": "boot-0"}, True, None),
        ({"generation": Generation(0)}, False, None),
        ({"generation": Generation(3)}, False, "the spool is missing"),
        ({"offset": 2 * BLOCK + 1}, False, "the spool is shorter than the checkpoint"),
    ],
)
def test_numbers_go_on_only_where_nothing_can_be_missing(
    given: dict[str, object], at_rest: bool, why: str | None, directory: Path
) -> None:
    row = checkpoint(PROJECT, host="here", boot_id="boot-1", offset=BLOCK)
    row = msgspec.structs.replace(row, **given)
    assert discontinuity(row, HERE, directory, at_rest) == why


def test_a_hole_at_the_checkpoint_is_a_loss_and_one_before_it_is_none(directory: Path) -> None:
    row = checkpoint(PROJECT, host="here", boot_id="boot-1", offset=BLOCK)
    if not punch(directory / "2" / "stdout", BLOCK):
        pytest.skip("this file system punches no holes")
    assert discontinuity(row, HERE, directory, False) is None
    punch(directory / "2" / "stdout", 2 * BLOCK)
    why = discontinuity(row, HERE, directory, False)
    assert why == "the spool has a hole at the checkpoint"


def test_a_new_project_has_nothing_to_continue(directory: Path) -> None:
    assert discontinuity(None, HERE, directory, True) == "the project is new"


class NoCommit(MemoryStore):
    """Can be read, and not written."""

    async def commit(self, batch: Batch) -> None:
        raise SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the store is away")


class World:
    """A project with a history, and successors that open it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store, self.clock = MemoryStore(), FakeClock()
        self.shared = shared(root, self.store, self.clock)

    async def begin(self) -> Ledger:
        """One generation, three lines, an own event between them; all committed."""
        await self.store.open()
        ledger = (await opened(self.shared)).ledger
        await starting.begin(self.shared, ledger, Generation(1), trusted=False)
        lines = [line("thread/status/changed", threadId="t", n=n) for n in range(3)]
        self.spool.write_bytes(b"".join(one + b"\n" for one in lines))
        ledger.ingest(lines[:2])
        event = own_event("supervisor/turnSubmitted", {})
        await ledger.barrier(lambda n, at: Change(events=[event]))
        ledger.ingest(lines[2:])
        await ledger.flush()
        return ledger

    @property
    def spool(self) -> Path:
        return SpoolPaths(self.root / "projects" / PROJECT, Generation(1)).stdout

    async def checkpoint(self) -> CheckpointRow:
        state = await self.store.project_state(PROJECT)
        assert state.checkpoint is not None
        return state.checkpoint

    async def opened(self) -> Opened:
        return await opened(self.shared)

    def replayed(self, ledger: Ledger) -> list[str]:
        reader = ledger.reader(ledger.first_n)
        found: list[str] = []
        while entries := reader.read():
            found += [json.loads(e.message)["method"] for e in entries if e.message]
        reader.close()
        return found


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.begin()
    return made


async def test_a_successor_goes_on_in_the_same_epoch_with_the_same_window(world: World) -> None:
    before = await world.checkpoint()
    found = await world.opened()
    assert found.discontinued is None
    assert (found.ledger.epoch, found.ledger.next_n) == (before.epoch, before.next_n)
    status = "thread/status/changed"
    assert world.replayed(found.ledger) == [
        "supervisor/agentStarted",
        status,
        status,
        "supervisor/turnSubmitted",
        status,
    ]
    assert await world.checkpoint() == before, "opening alone writes nothing"


async def test_events_before_the_first_generation_are_no_loss(tmp_path: Path) -> None:
    """Its first start could not make its files, and told of nothing but that."""
    world = World(tmp_path)
    await world.store.open()
    ledger = (await world.opened()).ledger
    told = own_event("supervisor/projectOpened", {})
    await ledger.barrier(lambda n, at: Change(events=[told]))
    await starting.begin(world.shared, ledger, Generation(1), trusted=False)
    await ledger.flush()
    before = await world.checkpoint()
    assert before.window_generation == 0
    found = await world.opened()
    assert (found.discontinued, found.ledger.epoch) == (None, before.epoch)
    assert world.replayed(found.ledger) == ["supervisor/projectOpened", "supervisor/agentStarted"]


@pytest.mark.parametrize("loss", ["missing", "shorter", "other lines", "other numbers"])
async def test_a_loss_renews_the_epoch_in_the_store_before_anything_is_read(
    loss: str, world: World
) -> None:
    before = await world.checkpoint()
    data = world.spool.read_bytes()
    if loss == "missing":
        world.spool.unlink()
    elif loss == "shorter":
        world.spool.write_bytes(data[:-5])
    elif loss == "other lines":
        world.spool.write_bytes(data.replace(b"\n", b" ", 1))
    else:
        wrong = msgspec.structs.replace(before, next_n=before.next_n + 1)
        await world.store.commit(Batch(project=PROJECT, checkpoint=wrong))
    found = await world.opened()
    after = await world.checkpoint()
    assert found.discontinued
    assert found.ledger.epoch == after.epoch != before.epoch
    assert found.ledger.first_n == found.ledger.next_n == after.next_n >= before.next_n
    assert (after.audit_seq, after.audit_hash) == (before.audit_seq, before.audit_hash)
    assert (await world.opened()).discontinued is None, "renewed once, not at each opening"


async def test_a_new_epoch_is_published_only_if_the_store_has_it(world: World) -> None:
    world.spool.unlink()
    before = await world.checkpoint()
    world.store.__class__ = NoCommit
    with pytest.raises(SupervisorError, match="away"):
        await world.opened()
    world.store.__class__ = MemoryStore
    assert (await world.checkpoint()).epoch == before.epoch


async def test_lines_past_the_checkpoint_get_their_numbers_when_they_are_read(world: World) -> None:
    with world.spool.open("ab") as spool:
        spool.write(line("turn/started", threadId="t", turn={"id": "u"}) + b"\n" + b'{"torn')
    ledger = (await world.opened()).ledger
    reader = SpoolReader(world.spool, ledger.log.offset)
    lines = LineFramer().feed(reader.read())
    reader.close()
    first = ledger.next_n
    ledger.ingest(lines)
    assert ledger.projection.memory.turns["t", "u"].started_n == first


async def test_a_successor_knows_whose_open_turns_are(world: World) -> None:
    ledger = (await world.opened()).ledger
    row = intent_row(
        PROJECT,
        "run-1",
        "turn/start",
        {"threadId": "t"},
        ME,
        meant={},
        idempotency_key=None,
        n=1,
        at=1.0,
    )
    await ledger.barrier(
        lambda n, at: Change(rows=Batch(project=PROJECT, intents={row.request_id: row}))
    )
    answer = b'{"id":"run-1","result":{"turn":{"id":"u"}}}'
    with world.spool.open("ab") as spool:
        spool.write(answer + b"\n")
    ledger.ingest([answer])
    await ledger.flush()
    memory = (await world.opened()).ledger.projection.memory
    assert memory.turns["t", "u"].request_id == "run-1"
    assert memory.owner("u") == ME
