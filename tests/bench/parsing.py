"""Lines alone: parsed and classified, and taken to durable rows. No codex in it."""

import asyncio
import gc
import time
from itertools import islice
from pathlib import Path

from prometheus_client import CollectorRegistry

from supervisor.agents.carrier import Carrier
from supervisor.agents.ledger import Ledger, Place
from supervisor.agents.log import EventLog, Mark, Window
from supervisor.agents.projection import Projection
from supervisor.agents.spool import READ_BYTES, SpoolReader
from supervisor.agents.state import AgentMemory
from supervisor.audit.chain import Chain
from supervisor.broker.fanout import Fanout
from supervisor.broker.subscription import QueueLimits
from supervisor.clock import SystemClock
from supervisor.ids import Epoch, Generation, ProjectId
from supervisor.metrics import Metrics
from supervisor.protocol.framing import LINE_LIMIT, LineFramer
from supervisor.protocol.jsonrpc import Kind, parse
from supervisor.settings import Settings
from supervisor.stores.sql import SqlStore
from tests.bench.rows import Figure, Promise, Row
from tests.bench.sizes import Size
from tests.bench.stage import Stage
from tests.bench.traffic import turn_lines
from tests.contract.stored import project_row

PROJECT = ProjectId("bench")
DELTAS = 200
"""Of a turn: a long answer."""
PASSES = 5


async def parsing(stage: Stage, size: Size) -> list[Row]:
    """The best of several passes: what the code can do, not what the machine did meanwhile."""
    talk = _lines(size.parsed // PASSES, DELTAS)
    busy = _lines(size.durable, 0)
    return [
        Row(
            part="parsing",
            what="lines parsed and classified",
            unit="lines/s",
            ours=max(_parse(talk) for _ in range(PASSES)),
            promise=Promise(Figure.OURS, 400_000, at_least=True),
            note=f"turns of {DELTAS} deltas, {len(b''.join(talk)) // len(talk)} bytes a line",
        ),
        Row(
            part="parsing",
            what="lines of a spool to durable rows",
            unit="lines/s",
            ours=await _durable(stage.directory("talk"), _lines(size.durable, DELTAS)),
            promise=Promise(Figure.OURS, 50_000, at_least=True),
            note="the same turns; deltas make no rows, but are folded, numbered and checkpointed",
        ),
        Row(
            part="parsing",
            what="the same, turns without a delta",
            unit="lines/s",
            ours=await _durable(stage.directory("busy"), busy[: len(busy) // 10]),
            note="nearly every line makes a row, an audit record, or both",
        ),
    ]


def _lines(count: int, deltas: int) -> list[bytes]:
    turns = (turn_lines(number, deltas) for number in range(count // 5 + 1))
    return list(islice((line for lines in turns for line in lines), count))


def _parse(lines: list[bytes]) -> float:
    """Lines a second."""
    gc.collect()
    began = time.perf_counter()
    for line in lines:
        assert parse(line).kind is Kind.NOTIFICATION
    return len(lines) / (time.perf_counter() - began)


async def _durable(directory: Path, lines: list[bytes]) -> float:
    """Lines a second from the spool file until the last row is committed."""
    spool = directory / "spool"
    spool.write_bytes(b"".join(line + b"\n" for line in lines))
    store = SqlStore(f"sqlite:///{directory}/bench.db", clock=SystemClock())
    await store.open()
    try:
        await store.put_project(project_row(PROJECT))
        gc.collect()
        async with Carrier() as carrier:
            ledger = _ledger(store, directory, spool, carrier)
            began = time.perf_counter()
            await _read(spool, ledger)
            seconds = time.perf_counter() - began
        state = await store.project_state(PROJECT)
        assert state.checkpoint is not None
        assert state.checkpoint.next_n == len(lines) + 1
    finally:
        await store.close()
    return len(lines) / seconds


async def _read(spool: Path, ledger: Ledger) -> None:
    """As an incarnation does: a chunk, then others' turn, while commits run behind."""
    async with asyncio.TaskGroup() as group:
        committing = group.create_task(ledger.run())
        reader, framer = SpoolReader(spool), LineFramer()
        while chunk := reader.read(READ_BYTES):
            lines = iter(framer.feed(chunk))
            while some := list(islice(lines, 2000)):
                while not ledger.accepting:  # noqa: ASYNC110  # as an incarnation does
                    await asyncio.sleep(0.002)
                ledger.ingest(some)
                await asyncio.sleep(0)
        reader.close()
        committing.cancel()
    await ledger.flush()


def _ledger(store: SqlStore, directory: Path, spool: Path, carrier: Carrier) -> Ledger:
    clock, settings = SystemClock(), Settings(state_dir=directory)
    window = Window(settings.replay_window_seconds, settings.replay_window_bytes)
    start = Mark(1, Generation(1), 0, 0, clock.monotonic())
    projection = Projection(PROJECT, AgentMemory(PROJECT), Chain(PROJECT, "bench"))
    projection.generation = Generation(1)
    return Ledger(
        PROJECT,
        store=store,
        clock=clock,
        metrics=Metrics(CollectorRegistry()),
        place=Place("bench", "boot"),
        epoch=Epoch("0123456789abcdef"),
        log=EventLog(lambda _: spool, window, LINE_LIMIT, start),
        projection=projection,
        fanout=Fanout(
            QueueLimits(settings.subscriber_queue_events, settings.subscriber_queue_bytes)
        ),
        carrier=carrier,
        commit_interval=settings.commit_interval_seconds,
        pending_rows_limit=settings.pending_rows_limit,
    )
