"""From the store and the spools to a ledger that goes on where a predecessor stopped (D2).

Continuity is proved or the epoch is renewed, in the store, before anything is published.
"""

import asyncio
from pathlib import Path

import msgspec

from supervisor.agents.carrier import Carrier
from supervisor.agents.ledger import Ledger, Place
from supervisor.agents.log import EventLog, Mark, OwnEvent, Window
from supervisor.agents.projection import Projection
from supervisor.agents.reached import Reached
from supervisor.agents.shared import Shared
from supervisor.agents.spool import READ_BYTES, SpoolPaths, SpoolReader
from supervisor.agents.state import AgentMemory
from supervisor.audit.chain import Chain
from supervisor.broker.entry import parse_line
from supervisor.broker.fanout import Fanout
from supervisor.broker.subscription import QueueLimits
from supervisor.ids import Epoch, Generation, ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.store import CheckpointRow, EventRow, GenerationRow, ProjectState
from supervisor.protocol.framing import LineFramer, Oversized


class Opened(msgspec.Struct, frozen=True):
    """A project ready to go on."""

    ledger: Ledger
    last: GenerationRow | None
    """The newest generation, ended or not."""
    discontinued: str | None
    """Why the epoch is new, where it is and was not before."""


async def open_ledger(shared: Shared, project: ProjectId, carrier: Carrier) -> Opened:
    """Read the project's state, prove continuity, rebuild the replay window."""
    state = await shared.store.project_state(project)
    directory = shared.project_dir(project)
    last = state.generations[-1] if state.generations else None
    memory = AgentMemory(project)
    memory.load(state)
    await _load_owners(shared, memory)
    at_rest = shared.clean_shutdown and (last is None or last.state == "ended")
    why = discontinuity(state.checkpoint, shared.place, directory, at_rest)
    if why is None and _spooled_after(directory, last):
        why = "there are spools of generations the store does not know"
    if why is None and state.checkpoint and Reached(directory).past(state.checkpoint):
        why = "the store has confirmed more than it holds"
    log = None
    if why is None and state.checkpoint is not None:
        log = await rebuild(shared, state, memory, directory)
        if log is None:
            why = "the spools do not hold what the checkpoint counts"
    if log is None:
        log = _log(shared, directory, _head(state.checkpoint, directory, shared))
    ledger = _ledger(shared, project, state, memory, log, carrier=carrier, renew=why is not None)
    if why is not None:
        ledger.on_durable = Reached(directory).note
        await ledger.flush()
    return Opened(ledger, last, why if state.checkpoint is not None else None)


def discontinuity(
    checkpoint: CheckpointRow | None, place: Place, directory: Path, at_rest: bool
) -> str | None:
    """Why the numbers so far cannot be continued; None if they can.

    `at_rest`: supervisor and app-server had both ended in order, so that a new boot lost nothing.
    """
    if checkpoint is None:
        return "the project is new"
    if checkpoint.host != place.host:
        return "another host wrote the checkpoint"
    if checkpoint.boot_id != place.boot_id and not at_rest:
        return "the machine went down uncleanly"
    if checkpoint.generation == 0:
        return None
    try:
        reader = SpoolReader(SpoolPaths(directory, checkpoint.generation).stdout)
    except FileNotFoundError:
        return "the spool is missing" if checkpoint.offset else None
    try:
        if reader.size() < checkpoint.offset:
            return "the spool is shorter than the checkpoint"
        if reader.hole_at(checkpoint.offset):
            return "the spool has a hole at the checkpoint"
    finally:
        reader.close()
    return None


def _spooled_after(directory: Path, last: GenerationRow | None) -> bool:
    """Whether a generation said something that the store knows nothing of: it was restored."""
    known = 0 if last is None else last.generation
    later = (p for p in directory.iterdir() if p.name.isdigit() and int(p.name) > known)
    spools = (SpoolPaths(directory, Generation(int(p.name))).stdout for p in later)
    return any(spool.stat().st_size > 0 for spool in spools if spool.exists())


def _head(checkpoint: CheckpointRow | None, directory: Path, shared: Shared) -> Mark:
    """Where lines are read from if the window is lost: behind everything accounted."""
    now = shared.clock.monotonic()
    if checkpoint is None:
        return Mark(1, Generation(0), 0, 0, now)
    offset = checkpoint.offset
    try:
        reader = SpoolReader(SpoolPaths(directory, checkpoint.generation).stdout)
    except FileNotFoundError:
        offset = 0
    else:
        offset = min(offset, reader.size())
        reader.close()
    return Mark(checkpoint.next_n, checkpoint.generation, offset, 0, now)


def _log(shared: Shared, directory: Path, start: Mark) -> EventLog:
    settings = shared.settings
    return EventLog(
        lambda generation: SpoolPaths(directory, generation).stdout,
        Window(settings.replay_window_seconds, settings.replay_window_bytes),
        settings.line_limit_bytes,
        start,
    )


def _ledger(
    shared: Shared,
    project: ProjectId,
    state: ProjectState,
    memory: AgentMemory,
    log: EventLog,
    *,
    carrier: Carrier,
    renew: bool,
) -> Ledger:
    settings, checkpoint = shared.settings, state.checkpoint
    host = shared.place.host
    if checkpoint is None:
        chain = Chain(project, host)
    else:
        chain = Chain(project, host, checkpoint.audit_seq, checkpoint.audit_hash)
    projection = Projection(project, memory, chain)
    projection.generation = log.generation
    if renew or checkpoint is None:
        epoch = Epoch(f"{shared.rng.getrandbits(64):016x}")
    else:
        epoch = checkpoint.epoch
    return Ledger(
        project,
        store=shared.store,
        clock=shared.clock,
        metrics=shared.metrics,
        place=shared.place,
        epoch=epoch,
        log=log,
        projection=projection,
        fanout=Fanout(
            QueueLimits(settings.subscriber_queue_events, settings.subscriber_queue_bytes)
        ),
        carrier=carrier,
        commit_interval=settings.commit_interval_seconds,
        pending_rows_limit=settings.pending_rows_limit,
    )


async def _load_owners(shared: Shared, memory: AgentMemory) -> None:
    # Background commands outlive their turns.
    turn_ids = {turn.turn_id for turn in memory.turns.values()}
    turn_ids |= {item.row.turn_id for item in memory.items.values()}
    for turn_id in turn_ids:
        intent = await shared.store.turn_owner(memory.project, turn_id)
        if intent is not None:
            owner = Principal(
                account=intent.account,
                principal=intent.principal,
                source=intent.source,
                client=intent.client,
            )
            memory.remember_owner(turn_id, owner)


async def rebuild(
    shared: Shared, state: ProjectState, memory: AgentMemory, directory: Path
) -> EventLog | None:
    """Count the lines of the replay window again, and give open items their text back.

    None if what is on disk is not what the checkpoint counts.
    """
    checkpoint = state.checkpoint
    assert checkpoint is not None
    start = Mark(
        checkpoint.window_n,
        checkpoint.window_generation,
        checkpoint.window_offset,
        0,
        shared.clock.monotonic(),
    )
    log = _log(shared, directory, start)
    own = {e.n: e for e in state.events if e.n >= start.n}
    # Before the first generation there are only events of our own.
    ends = {Generation(0): 0, **{g.generation: g.final_size for g in state.generations}}
    while True:
        at_head = log.generation == checkpoint.generation
        end = checkpoint.offset if at_head else ends.get(log.generation)
        if end is None or not await _recount(shared, log, own, memory, end):
            return None
        if at_head:
            break
        later = [g.generation for g in state.generations if g.generation > log.generation]
        if not later:
            return None
        log.next_generation(min(later), shared.clock.monotonic())
    if own or log.next_n != checkpoint.next_n or log.offset != checkpoint.offset:
        return None
    return log


async def _recount(
    shared: Shared, log: EventLog, own: dict[int, EventRow], memory: AgentMemory, end: int
) -> bool:
    """Count one generation's lines up to `end`, own events between them."""
    now = shared.clock.monotonic()

    def own_events() -> None:
        here = (log.generation, log.offset)
        while (event := own.get(log.next_n)) and (event.generation, event.offset) == here:
            log.note_own(OwnEvent(event.thread_id, event.message), now)
            del own[event.n]

    own_events()
    if log.offset >= end:
        return log.offset == end
    try:
        reader = SpoolReader(log.spool_path(log.generation), log.offset)
    except FileNotFoundError:
        return False
    framer = LineFramer(log.line_limit)
    try:
        while reader.offset < end:
            chunk = reader.read(min(READ_BYTES, end - reader.offset))
            if not chunk:
                return False
            for line in framer.feed(chunk):
                size = line.size if isinstance(line, Oversized) else len(line)
                n = log.note_line(size + 1, now)
                _retell(memory, n, line)
                own_events()
            await asyncio.sleep(0)
    finally:
        reader.close()
    return True


def _retell(memory: AgentMemory, n: int, line: bytes | Oversized) -> None:
    """Give an open item its text back, from the deltas its row does not hold yet."""
    if not memory.items or b"elta" not in (line if isinstance(line, bytes) else b""):
        return
    parsed = parse_line(line)
    if parsed.delta is None:
        return
    item = memory.items.get((parsed.thread_id or "", parsed.item_id or ""))
    if item is not None and n > max(item.text_from_n, item.row.started_n):
        item.add(parsed.delta)
