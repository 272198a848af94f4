"""The ledger of one project: it numbers, publishes and accounts (DESIGN.md D2).

One order. Lines are taken in under `order`; an own event is a barrier: it holds `order` while one
transaction commits all lines so far, the event and the checkpoint, and only then is published.
Publishing a line does not wait for the store; `run` commits what lines brought about behind them.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from supervisor.agents.carrier import Carrier, to_the_end
from supervisor.agents.effects import Effect
from supervisor.agents.log import EventLog, LogReader, OwnEvent
from supervisor.agents.projection import Projection
from supervisor.agents.snapshot import snapshot_payload
from supervisor.audit.chain import Chain
from supervisor.audit.record import Draft
from supervisor.broker.entry import Entry, entry_of, parse_line
from supervisor.broker.fanout import Fanout
from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Epoch, Generation, ProjectId
from supervisor.metrics import STORE_TABLES, Metrics
from supervisor.ports.store import Batch, CheckpointRow, CommitInDoubtError, EventRow, Store
from supervisor.protocol.framing import Oversized
from supervisor.protocol.jsonrpc import Kind

CHECKPOINT_EVERY_BYTES = 4 * 1024 * 1024
"""Lines that make no rows move the checkpoint this often: what a successor reads again."""
STORE_RETRY_SECONDS = 0.5
PENDING_BYTES_LIMIT = 64 * 1024 * 1024
"""Bytes of items and questions that wait for the store, past which lines wait in the spool."""
MESSAGE = msgspec.json.Encoder()


class Change(msgspec.Struct):
    """What a barrier brings: own events, rows, audit drafts."""

    events: list[OwnEvent] = msgspec.field(default_factory=list)
    rows: Batch | None = None
    drafts: list[Draft] = msgspec.field(default_factory=list)
    begins: Generation | None = None
    """A generation that begins with it: the lines that follow are in that one's spool. The one
    before has been read to its end, and its end committed."""


class Place(msgspec.Struct, frozen=True):
    """Where this supervisor runs: continuity is proved against it."""

    host: str
    boot_id: str


def own_event(method: str, params: dict[str, object], thread_id: str | None = None) -> OwnEvent:
    """An event of the supervisor's, in the form lines have."""
    return OwnEvent(thread_id, MESSAGE.encode({"method": method, "params": params}))


class Ledger:
    """Owned by one agent. Everything that changes the project's rows goes through here."""

    def __init__(
        self,
        project: ProjectId,
        *,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        place: Place,
        epoch: Epoch,
        log: EventLog,
        projection: Projection,
        fanout: Fanout,
        carrier: Carrier,
        commit_interval: float,
        pending_rows_limit: int,
    ) -> None:
        self.project = project
        self.epoch = epoch
        self.log = log
        self.projection = projection
        self.fanout = fanout
        self.order = asyncio.Lock()
        self.store_waiting = False
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._line_counters = [(kind, metrics.line[kind.value]) for kind in Kind]
        self._place = place
        self._carrier = carrier
        self._commit_interval = commit_interval
        self._pending_rows_limit = pending_rows_limit
        self._commit_lock = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._accounted = log.offset
        self.agent_view: Callable[[], dict[str, object]] = dict
        self.on_durable: Callable[[CheckpointRow], None] = lambda _: None

    # -- what a subscription reads (broker.subscription.Source)

    @property
    def first_n(self) -> int:
        """The oldest number that can be replayed."""
        return self.log.first_n

    @property
    def next_n(self) -> int:
        """The number the next line or own event takes."""
        return self.log.next_n

    @property
    def cursor(self) -> Cursor:
        """Of the last event."""
        return Cursor(self.epoch, self.log.next_n - 1)

    def reader(self, n: int) -> LogReader:
        """A reader of the log that starts at `n`."""
        return self.log.reader(n)

    def snapshot(self, thread_id: str | None) -> bytes:
        """The snapshot as of the last event."""
        return snapshot_payload(self.projection.memory, self.cursor, self.agent_view(), thread_id)

    # -- lines

    @property
    def accepting(self) -> bool:
        """False while so much waits for the store that lines had better wait in the spool."""
        small = self.projection.pending_bytes < PENDING_BYTES_LIMIT
        return small and self._pending_rows() < self._pending_rows_limit

    def _pending_rows(self) -> int:
        batch = self.projection.batch
        rows = len(batch.items) + len(batch.audit) + len(batch.turns) + len(batch.server_requests)
        return rows + len(batch.threads) + len(batch.intents)

    def ingest(self, lines: Sequence[bytes | Oversized]) -> list[Effect]:
        """Number, fold and publish lines. The caller holds `order`, or knows that nobody does."""
        effects: list[Effect] = []
        log, projection, fanout = self.log, self.projection, self.fanout
        kinds: list[Kind] = []
        projection.at = self._clock.now().timestamp()
        now = self._clock.monotonic()
        for line in lines:
            parsed = parse_line(line)
            size = line.size if isinstance(line, Oversized) else len(line)
            n = log.note_line(size + 1, now)
            kinds.append(parsed.kind)
            if parsed.kind is Kind.MALFORMED:
                self._metrics.line_refused[parsed.problem or "too_large"].inc()
            elif isinstance(line, bytes):
                effect = projection.line(n, line, parsed)
                if effect is not None:
                    effects.append(effect)
            fanout.publish(entry_of(n, line, parsed))
        for kind, counter in self._line_counters:
            if found := kinds.count(kind):
                counter.inc(found)
        self._metrics.events_published.inc(len(lines))
        if self._pending_rows() or log.offset - self._accounted > CHECKPOINT_EVERY_BYTES:
            self._dirty.set()
        return effects

    # -- own events

    async def barrier(self, build: Callable[[int, float], Change], *, patient: bool = False) -> int:
        """Commit all lines so far with what `build(n, at)` brings; then publish it.

        `n` is the number the first own event takes. Returns it. Raises the store's error, and then
        nothing has changed; a `patient` barrier waits for the store instead. Cancelled, it is
        carried out all the same: a number that may be in the store is given to nothing else.
        """
        return await self._carrier.carry(self._barrier(build, patient=patient))

    async def _barrier(self, build: Callable[[int, float], Change], *, patient: bool) -> int:
        async with self.order:
            while True:
                try:
                    return await to_the_end(self._commit_change(build))
                except SupervisorError as e:
                    # In doubt it has to be written again, however long that takes: lines wait.
                    patient = patient or isinstance(e, CommitInDoubtError)
                    if not patient or not e.retryable:
                        raise
                    self._store_failed()
                await self._clock.sleep(STORE_RETRY_SECONDS)

    async def _commit_change(self, build: Callable[[int, float], Change]) -> int:
        async with self._commit_lock:
            first = self.log.next_n
            self.projection.at = self._clock.now().timestamp()
            change = build(first, self.projection.at)
            chain = self._forked_chain()
            taken = self._take()
            batch = self._with_change(taken, change, chain)
            await self._write(batch, taken)
            self.projection.chain = chain
        if change.begins is not None:
            self.log.next_generation(change.begins, self._clock.monotonic())
            self.projection.generation = change.begins
        if change.rows is not None:
            self.projection.memory.absorb(change.rows)
        now = self._clock.monotonic()
        for event in change.events:
            n = self.log.note_own(event, now)
            self.fanout.publish(Entry(n, event.thread_id, event.message))
        return first

    def _forked_chain(self) -> Chain:
        chain = self.projection.chain
        return Chain(self.project, self._place.host, chain.seq, chain.head)

    def _with_change(self, taken: Batch, change: Change, chain: Chain) -> Batch:
        log, at = self.log, self.projection.at
        generation, offset = log.generation, log.offset
        if change.begins is not None:
            generation, offset = change.begins, 0
        batch = merge(taken, change.rows or Batch(project=self.project))
        for i, event in enumerate(change.events):
            batch.events.append(
                EventRow(
                    project=self.project,
                    n=log.next_n + i,
                    generation=generation,
                    offset=offset,
                    thread_id=event.thread_id,
                    message=event.message,
                    at=at,
                )
            )
        for draft in change.drafts:
            placed = msgspec.structs.replace(draft, n=log.next_n, generation=generation)
            batch.audit.append(chain.append(placed, at))
        next_n = log.next_n + len(change.events)
        batch.checkpoint = self._checkpoint(next_n, generation, offset, chain)
        return batch

    # -- the store

    def _checkpoint(
        self, next_n: int, generation: Generation, offset: int, chain: Chain
    ) -> CheckpointRow:
        start = self.log.start
        if start.n == self.log.next_n:
            # Nothing to replay: the window starts where the next event goes.
            start = msgspec.structs.replace(start, generation=generation, offset=offset)
        return CheckpointRow(
            project=self.project,
            epoch=self.epoch,
            next_n=next_n,
            generation=generation,
            offset=offset,
            window_n=start.n,
            window_generation=start.generation,
            window_offset=start.offset,
            audit_seq=chain.seq,
            audit_hash=chain.head,
            host=self._place.host,
            boot_id=self._place.boot_id,
        )

    def _take(self) -> Batch:
        """What waits to be written, with the checkpoint that belongs to it."""
        taken = self.projection.batch
        self.projection.batch = Batch(project=self.project)
        self.projection.pending_bytes = 0
        return taken

    async def _write(self, batch: Batch, taken: Batch) -> None:
        try:
            with self._metrics.store_commit_seconds.time():
                await self._store.commit(batch)
        except BaseException:
            # Not written, or not known to be: rows replace rows, so writing again is harmless.
            self.projection.batch = merge(taken, self.projection.batch)
            self.projection.pending_bytes += _bytes(taken)
            raise
        self._count_rows(batch)
        self.store_waiting = False
        assert batch.checkpoint is not None
        self._accounted = batch.checkpoint.offset
        self.on_durable(batch.checkpoint)

    def _count_rows(self, batch: Batch) -> None:
        for table in STORE_TABLES:
            if rows := len(getattr(batch, table)):
                self._metrics.store_rows.labels(table).inc(rows)

    async def flush(self) -> None:
        """Commit what lines brought about so far. Raises the store's error."""
        async with self._commit_lock:
            trimmed = self.log.trim(self._clock.monotonic())
            if trimmed:
                self._keep_partial_texts()
            taken = self._take()
            batch = merge(taken, Batch(project=self.project))
            log = self.log
            batch.checkpoint = self._checkpoint(
                log.next_n, log.generation, log.offset, self.projection.chain
            )
            if trimmed:
                batch.drop_events_below = self.log.first_n
            await self._write(batch, taken)

    def _keep_partial_texts(self) -> None:
        memory = self.projection.memory
        for row in memory.partial_rows(self.log.first_n, self.log.next_n - 1):
            self.projection.batch.items[row.thread_id, row.turn_id, row.item_id] = row

    async def run(self) -> None:
        """Commit behind the lines, for ever. Store errors are waited out, and said."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._clock.sleep(self._commit_interval)
            try:
                await self.flush()
            except SupervisorError as e:
                if e.code is not ErrorCode.STORE_UNAVAILABLE:
                    raise
                self._store_failed()
                await self._clock.sleep(STORE_RETRY_SECONDS)
                self._dirty.set()

    def _store_failed(self) -> None:
        self.store_waiting = True
        self._metrics.store_failures.inc()


def _bytes(batch: Batch) -> int:
    """What `Projection.pending_bytes` counted of it."""
    items, requests = batch.items.values(), batch.server_requests.values()
    return sum(len(row.body) for row in items) + sum(len(row.params) for row in requests)


def merge(older: Batch, newer: Batch) -> Batch:
    """Both, as one: newer rows replace older rows of the same key."""
    return Batch(
        project=older.project,
        wished=newer.wished or older.wished,
        checkpoint=newer.checkpoint or older.checkpoint,
        generations={**older.generations, **newer.generations},
        events=[*older.events, *newer.events],
        threads={**older.threads, **newer.threads},
        intents={**older.intents, **newer.intents},
        turns={**older.turns, **newer.turns},
        items={**older.items, **newer.items},
        server_requests={**older.server_requests, **newer.server_requests},
        audit=[*older.audit, *newer.audit],
        drop_events_below=newer.drop_events_below or older.drop_events_below,
    )
