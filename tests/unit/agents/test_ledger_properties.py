"""A ledger under any order of lines, commits, crashes, restarts of the app-server and readers.

The truth is kept beside it: each whole line and each own event, in the order they were taken in.
Numbers are places in that list, whoever counts them, and however often.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.agents import starting
from supervisor.agents.ending import Ended, ending
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.spool import SpoolReader
from supervisor.audit import chain
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Generation
from supervisor.lifecycle.restart import ExitKind
from supervisor.ports.store import GenerationRow
from supervisor.protocol.framing import LineFramer
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.unit.agents.making import LINE_LIMIT, PROJECT, line, opened, shared

AWAY = SupervisorError(ErrorCode.STORE_UNAVAILABLE, "away")
ITEM: dict[str, Any] = {"threadId": "a", "turnId": "u", "itemId": "i"}
LINES = {
    "delta": line("item/agentMessage/delta", **ITEM, delta="word "),
    "started": line(
        "item/started", threadId="a", turnId="u", item={"id": "i", "type": "agentMessage"}
    ),
    "completed": line(
        "item/completed", threadId="a", turnId="u", item={"id": "i", "type": "agentMessage"}
    ),
    "command": line(
        "item/started", threadId="a", turnId="u", item={"id": "c", "type": "commandExecution"}
    ),
    "other": line("turn/started", threadId="b", turn={"id": "v"}),
    "answer": b'{"id":"never","result":{}}',
    "junk": b"\xff no JSON",
    "empty": b"",
    "long": line(
        "item/agentMessage/delta", threadId="b", turnId="v", itemId="j", delta="x" * 50_000
    ),
    "too_long": b"x" * (LINE_LIMIT + 1),
}
SHOWN = {"delta", "started", "completed", "command", "other", "long"}
OF_A = {"delta", "started", "completed", "command"}
NAMES = {text: name for name, text in LINES.items()}


class Reader:
    """A subscriber that survives crashes by its cursor, and checks what it gets."""

    def __init__(self, world: "World", thread: str | None) -> None:
        self.world, self.thread = world, thread
        self.cursor: Cursor | None = None
        self.expired = False

    def wants(self, name: str) -> bool:
        if name.startswith("own"):
            return self.thread is None or name.split()[1] in {"-", self.thread}
        if name in {"junk", "empty", "too_long"}:
            return True  # the record of it is of no thread
        return name in (SHOWN if self.thread is None else OF_A)

    async def drain(self) -> None:
        """Read to the end, as a client that connects, reads all there is, and goes."""
        ledger = self.world.ledger
        subscription = ledger.fanout.subscribe(ledger, self.thread, self.cursor)
        payloads = aiter(subscription)
        while self.behind():
            self.take(json.loads(await anext(payloads)))
        subscription.close()

    def behind(self) -> bool:
        if self.cursor is None:
            return True
        return any(self.wants(name) for name in self.world.truth[self.cursor.n :])

    def take(self, payload: dict[str, Any]) -> None:
        if payload["type"] == "expired":
            assert self.world.may_expire
            self.cursor = None
        elif payload["type"] == "snapshot":
            self.cursor = Cursor.parse(payload["cursor"])
            self.world.check_text(payload)
        else:
            assert payload["type"] == "event"
            cursor, prev = Cursor.parse(payload["cursor"]), Cursor.parse(payload["prev"])
            assert self.cursor in {None, prev}
            truth = self.world.truth
            assert not any(self.wants(name) for name in truth[prev.n : cursor.n - 1])
            assert said(payload["message"]) == truth[cursor.n - 1]
            self.cursor = cursor


def said(message: dict[str, Any]) -> str:
    """The name of what a message shows."""
    if message["method"] == "supervisor/lineRefused":
        size = message["params"]["bytes"]
        return {len(LINES[n]): n for n in ("junk", "empty", "too_long")}[size]
    if message["method"].startswith("supervisor/") or "synthesised" in message["params"]:
        return f"own {message['params'].get('threadId', '-')} {message['method']}"
    return NAMES[json.dumps(message, separators=(",", ":")).encode()]


class World:
    def __init__(self, root: Path, window_bytes: int) -> None:
        self.root = root
        self.store, self.clock = MemoryStore(), FakeClock()
        self.shared = shared(root, self.store, self.clock, replay_window_bytes=window_bytes)
        self.truth: list[str] = []
        self.may_expire = False
        self.torn = False
        """The app-server is in the middle of a line, and says nothing more."""
        self.row: GenerationRow
        self.ledger: Ledger

    @property
    def spool(self) -> Path:
        return self.root / "projects" / PROJECT / str(self.row.generation) / "stdout"

    async def begin(self) -> None:
        await self.store.open()
        self.ledger = (await opened(self.shared)).ledger
        await self.generation(1)

    async def generation(self, number: int) -> None:
        told = len(self.truth)
        self.row = await starting.begin(self.shared, self.ledger, Generation(number), trusted=False)
        self.own("own - supervisor/agentStarted", told + 1)
        self.read_from(0)

    def read_from(self, offset: int) -> None:
        self.reader = SpoolReader(self.spool, offset)
        self.framer = LineFramer(LINE_LIMIT)

    def own(self, name: str, n: int) -> None:
        """An own event was published as number `n`: everything before it had a number."""
        assert len(self.truth) == n - 1
        self.truth.append(name)

    def write(self, names: list[str], *, torn: bool) -> None:
        with self.spool.open("ab") as spool:
            for name in names:
                spool.write(LINES[name] + b"\n")
            if torn:
                spool.write(LINES["delta"][:20])
                spool.flush()
        self.torn = torn

    def pump(self, size: int) -> bool:
        """Take in up to so many bytes."""
        chunk = self.reader.read(size)
        lines = self.framer.feed(chunk)
        n = self.ledger.next_n
        for one in lines:
            name = "too_long" if not isinstance(one, bytes) else NAMES[one]
            if n <= len(self.truth):
                assert self.truth[n - 1] == name, "read again, and numbered otherwise"
            else:
                self.truth.append(name)
            n += 1
        self.ledger.ingest(lines)
        assert self.ledger.next_n == n
        return bool(chunk)

    def pump_all(self) -> None:
        while self.pump(100_000):
            pass

    async def crash(self) -> None:
        """Nothing is flushed; a successor opens, and catches up before anybody is served."""
        self.reader.close()
        self.ledger.fanout.close()
        epoch = self.ledger.epoch
        found = await opened(self.shared)
        assert found.discontinued is None
        self.ledger = found.ledger
        assert self.ledger.epoch == epoch
        self.read_from(self.ledger.log.offset)
        self.pump_all()
        assert self.ledger.next_n == len(self.truth) + 1

    async def exit(self) -> None:
        """The app-server ends; the next generation begins. A torn tail is nobody's."""
        self.pump_all()
        size = self.reader.offset
        self.reader.close()
        ended = Ended(generation=self.row, kind=ExitKind.CRASHED, detail="", final_size=size)
        memory = self.ledger.projection.memory
        events: list[str] = []

        def change(n: int, at: float) -> Change:
            made = ending(memory, ended, n, at)
            events.extend(said(json.loads(e.message)) for e in made.events)
            return made

        first = await self.ledger.barrier(change)
        for place, name in enumerate(events):
            self.own(name, first + place)
        self.torn = False
        await self.generation(self.row.generation + 1)

    def check_text(self, snapshot: dict[str, Any]) -> None:
        """The text of the open item is all its deltas since it was started."""
        upto = Cursor.parse(snapshot["cursor"]).n
        text: str | None = None
        for name in self.truth[:upto]:
            if name == "started":
                text = text or ""
            elif name in {"completed", "own - supervisor/agentExited"}:
                text = None
            elif name == "delta" and text is not None:
                text += "word "
        items = [i for i in self.ledger.projection.memory.items.values() if i.row.item_id == "i"]
        assert [item.text for item in items] == ([] if text is None else [text])


async def do(world: World, name: str, told: list[Any]) -> None:
    match name:
        case "write" | "tear":
            if not world.torn:
                world.write(told[0], torn=name == "tear")
        case "pump":
            world.pump(told[0])
        case "own":
            event = own_event("supervisor/turnSubmitted", {"threadId": "a"}, "a")
            n = await world.ledger.barrier(lambda n, at: Change(events=[event]))
            world.own("own a supervisor/turnSubmitted", n)
        case "flush":
            await world.ledger.flush()
        case "fail":
            world.store.fail_next(1, AWAY)
            with pytest.raises(SupervisorError):
                await world.ledger.flush()
        case "age":
            world.may_expire = True
            world.clock.advance(400.0)
        case "crash":
            await world.crash()
        case "exit":
            await world.exit()
        case _:
            raise AssertionError(name)


async def play(root: Path, window_bytes: int, operations: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(root, window_bytes)
    world.may_expire = window_bytes < 2**26
    await world.begin()
    readers = [Reader(world, None), Reader(world, "a")]
    try:
        for name, *told in operations:
            if name == "read":
                await readers[told[0]].drain()
            else:
                await do(world, name, told)
        world.pump_all()
        await world.crash()
        for reader in readers:
            await reader.drain()
        await world.ledger.flush()
        state = await world.store.project_state(PROJECT)
        assert state.checkpoint is not None
        assert state.checkpoint.next_n == len(world.truth) + 1
        records = await world.store.audit(PROJECT, after_seq=0, limit=10_000)
        end = (state.checkpoint.audit_seq, state.checkpoint.audit_hash)
        assert chain.verify(records, end=end).ok
    finally:
        world.reader.close()


NAMED = st.lists(st.sampled_from(sorted(LINES)), max_size=5)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMED),
        st.tuples(st.just("tear"), NAMED),
        st.tuples(st.just("pump"), st.sampled_from((1, 50, 333, 70_000, 300_000))),
        st.tuples(st.just("own")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("fail")),
        st.tuples(st.just("age")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("exit")),
        st.tuples(st.just("read"), st.integers(0, 1)),
    ),
    max_size=25,
)


@settings(max_examples=120)
@given(window_bytes=st.sampled_from((0, 100_000, 2**26)), operations=OPERATIONS)
def test_numbers_texts_and_streams_survive_any_order_of_things(
    window_bytes: int,
    operations: list[tuple],  # type: ignore[type-arg]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory), window_bytes, operations))
