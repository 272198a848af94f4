"""Whatever happens in whatever order: a subscription shows each wanted entry once, or says so."""

import asyncio
import json
from collections.abc import AsyncIterator

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.broker.entry import Entry
from supervisor.broker.fanout import Fanout
from supervisor.broker.subscription import QueueLimits, Subscription
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Epoch

EPOCH = Epoch("e1")
THREADS = ("a", "b", None)


class ListReader:
    """Gives a few entries at a time."""

    def __init__(self, log: "ListLog", n: int) -> None:
        assert n >= log.first_n
        self.n = n
        self._log = log

    def read(self) -> list[Entry]:
        if self.n < self._log.first_n:
            raise SupervisorError(ErrorCode.CURSOR_EXPIRED, "gone")
        entries = self._log.entries[self.n - 1 : self.n + 2]
        self.n += len(entries)
        return entries

    def close(self) -> None:
        self._log.open_readers -= 1


class ListLog:
    """A log that is a list: entry n at n - 1."""

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.entries: list[Entry] = []
        self.first_n = 1
        self.open_readers = 0

    @property
    def next_n(self) -> int:
        return len(self.entries) + 1

    def add(self, thread: str | None, *, silent: bool) -> Entry:
        n = self.next_n
        message = None if silent else b'{"n":%d}' % n
        self.entries.append(Entry(n, thread, message))
        return self.entries[-1]

    def reader(self, n: int) -> ListReader:
        self.open_readers += 1
        return ListReader(self, n)

    def snapshot(self, thread_id: str | None) -> bytes:
        return b'{"type":"snapshot","cursor":"%b.%d"}' % (EPOCH.encode(), self.next_n - 1)


class Consumer:
    """Takes as many payloads as it is allowed to, and checks each as it comes."""

    def __init__(self, log: ListLog, subscription: Subscription, thread: str | None) -> None:
        self.log, self.subscription, self.thread = log, subscription, thread
        self.allowed = asyncio.Semaphore(0)
        self.kinds: list[str] = []
        self.last: int | None = None
        self.expected_expiry = False

    async def run(self) -> None:
        payloads: AsyncIterator[bytes] = aiter(self.subscription)
        while True:
            await self.allowed.acquire()
            payload = await anext(payloads, None)
            if payload is None:
                return
            self.take(json.loads(payload))

    def take(self, payload: dict[str, str]) -> None:
        kind = payload["type"]
        if self.kinds and self.kinds[-1] == "expired":
            assert kind == "snapshot"
        self.kinds.append(kind)
        if kind == "event":
            self.take_event(number(payload["cursor"]), number(payload["prev"]), payload)
        elif kind == "snapshot":
            self.last = number(payload["cursor"])
        elif kind == "lagging":
            assert number(payload["cursor"]) == self.last

    def take_event(self, n: int, prev: int, payload: dict[str, object]) -> None:
        assert self.last in {None, prev}
        assert payload["message"] == {"n": n}
        assert [e for e in self.log.entries[prev : n - 1] if self.wants(e)] == []
        assert self.wants(self.log.entries[n - 1])
        self.last = n

    def wants(self, entry: Entry) -> bool:
        if entry.message is None:
            return False
        return self.thread is None or entry.thread_id in {None, self.thread}


def number(cursor: str) -> int:
    epoch, n = cursor.split(".")
    assert epoch == EPOCH
    return int(n)


async def drain(consumer: Consumer, payloads: int) -> None:
    """Let it take all there is: nothing here waits for anything but others."""
    for _ in range(payloads):
        consumer.allowed.release()
    seen = -1
    while seen != len(consumer.kinds):
        seen = len(consumer.kinds)
        for _ in range(60):
            await asyncio.sleep(0)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12), st.sampled_from(THREADS), st.booleans()),
        st.tuples(st.just("read"), st.integers(1, 9)),
        st.tuples(st.just("trim"), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 3)),
    ),
    max_size=30,
)
LIMITS = st.builds(QueueLimits, events=st.integers(1, 8), bytes=st.integers(8, 200))


async def play(
    before: int,
    after: Cursor | None,
    thread: str | None,
    operations: list[tuple],  # type: ignore[type-arg]
    limits: QueueLimits,
) -> None:
    log, fanout = ListLog(), Fanout(limits)
    for n in range(before):
        log.add(THREADS[n % 3], silent=n % 5 == 0)
    subscription = fanout.subscribe(log, thread, after)
    consumer = Consumer(log, subscription, thread)
    foreign = after is not None and (after.epoch != EPOCH or after.n > before)
    if after is not None and not foreign:
        consumer.last = after.n
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        trimmed = False
        for name, count, *told in operations:
            if name == "trim":
                trimmed = True
                log.first_n = min(log.next_n, log.first_n + count)
                continue
            for _ in range(count):
                if name == "publish":
                    fanout.publish(log.add(told[0], silent=told[1]))
                elif name == "read":
                    consumer.allowed.release()
                else:
                    await asyncio.sleep(0)
        await drain(consumer, 4 * len(log.entries) + 10)
        assert consumer.last is not None
        assert [e for e in log.entries[consumer.last :] if consumer.wants(e)] == []
        assert ("expired" in consumer.kinds) <= (foreign or trimmed)
        assert (consumer.kinds[:1] == ["expired"]) >= foreign
        assert fanout.lagged == consumer.kinds.count("lagging")
        assert fanout.expired == consumer.kinds.count("expired")
        fanout.close()
        assert (len(fanout), log.open_readers) == (0, 0)


@settings(max_examples=150)
@given(
    before=st.integers(0, 12),
    after=st.none() | st.integers(0, 14),
    thread=st.sampled_from(("a", None)),
    operations=OPERATIONS,
    limits=LIMITS,
)
def test_each_wanted_entry_comes_once_in_order_or_a_snapshot_instead(
    before: int,
    after: int | None,
    thread: str | None,
    operations: list[tuple],  # type: ignore[type-arg]
    limits: QueueLimits,
) -> None:
    cursor = None if after is None else Cursor(EPOCH, after)
    asyncio.run(play(before, cursor, thread, operations, limits))


@given(operations=OPERATIONS, after=st.integers(0, 5))
@settings(max_examples=30)
def test_a_cursor_of_another_epoch_expires_whatever_its_number(
    operations: list[tuple],  # type: ignore[type-arg]
    after: int,
) -> None:
    cursor = Cursor(Epoch("other"), after)
    asyncio.run(play(5, cursor, None, operations, QueueLimits(events=4, bytes=1000)))


async def taken(subscription: Subscription, count: int) -> list[dict[str, object]]:
    payloads = aiter(subscription)
    return [json.loads(await anext(payloads)) for _ in range(count)]


async def test_a_subscriber_that_lags_is_told_and_caught_up_while_another_is_not_held_up() -> None:
    log, fanout = ListLog(), Fanout(QueueLimits(events=3, bytes=10_000))
    slow, fast = fanout.subscribe(log, None, None), fanout.subscribe(log, None, None)
    slow_payloads, fast_payloads = aiter(slow), aiter(fast)
    await anext(slow_payloads)
    await anext(fast_payloads)
    for _ in range(10):
        fanout.publish(log.add(None, silent=False))
        assert json.loads(await anext(fast_payloads))["type"] == "event"
    shown = [json.loads(await anext(slow_payloads)) for _ in range(11)]
    assert [p["type"] for p in shown] == ["lagging"] + ["event"] * 10
    assert shown[0]["cursor"] == "e1.0"
    assert (slow.lagged, fast.lagged) == (1, 0)


async def test_entries_published_while_the_last_replayed_one_is_looked_at_are_not_lost() -> None:
    log, fanout = ListLog(), Fanout(QueueLimits(events=100, bytes=10_000))
    for _ in range(4):
        log.add(None, silent=False)
    subscription = fanout.subscribe(log, None, Cursor(EPOCH, 1))
    payloads = aiter(subscription)
    cursors = []
    for _ in range(8):
        cursors.append(json.loads(await anext(payloads))["cursor"])
        if log.next_n < 10:
            fanout.publish(log.add(None, silent=False))
    assert cursors == [f"e1.{n}" for n in range(2, 10)]


async def test_counts_of_closed_subscriptions_are_kept() -> None:
    log, fanout = ListLog(), Fanout(QueueLimits(events=1, bytes=10_000))
    first = fanout.subscribe(log, None, Cursor(Epoch("other"), 0))
    assert [p["type"] for p in await taken(first, 2)] == ["expired", "snapshot"]
    first.close()
    second = fanout.subscribe(log, None, None)
    assert (len(fanout), fanout.expired) == (1, 1)
    second.close()
    second.close()
    assert len(fanout) == 0
