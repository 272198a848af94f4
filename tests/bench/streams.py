"""A stream of deltas: bare, and through spool, parser, ledger and one subscriber."""

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from statistics import median

import msgspec

from supervisor.api.client import RpcClient
from supervisor.testing.driver import BareAppServer
from tests.bench.rows import Figure, Promise, Row
from tests.bench.sizes import Size
from tests.bench.stage import Stage, Supervised
from tests.rig import FREE

DELTA = b'"method":"item/agentMessage/delta"'
ENDED = b'"method":"turn/completed"'
BARE = "bare stdio"


class Passage(msgspec.Struct, frozen=True):
    """One turn, as its client saw it."""

    lines: int
    seconds: float
    """From the first delta to the last."""
    lagged: int = 0

    @property
    def rate(self) -> float:
        """Deltas a second."""
        return (self.lines - 1) / self.seconds


class Counter:
    """Counts deltas. `take` is on the hot path of both sides, and the same for both."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new turn."""
        self.lines, self.first, self.last = 0, 0.0, 0.0
        self.ended = asyncio.Event()

    def take(self, line: bytes) -> bool:
        """Look at one line; whether it was a delta."""
        if DELTA in line[:160]:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.lines += 1
            return True
        if ENDED in line[:160]:
            self.ended.set()
        return False

    def passage(self, expected: int, lagged: int = 0) -> Passage:
        """What it was. Every delta has to have come."""
        assert self.lines == expected, f"{self.lines} deltas of {expected}"
        return Passage(self.lines, self.last - self.first, lagged)


async def streams(stage: Stage, size: Size) -> list[Row]:
    """Bare and supervised take turns."""
    counter, bare_passages, passages = Counter(), [], []
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(stage.bare(counter.take))
        supervised = await stack.enter_async_context(stage.supervised())
        client = await stack.enter_async_context(supervised.dial())
        started = await bare.request("thread/start", dict(FREE))
        theirs, ours = str(started["thread"]["id"]), await supervised.thread()
        spent = 0.0
        for _ in range(size.streams):
            bare_passages.append(await _bare_turn(bare, theirs, counter, size.deltas))
            before = supervised.cpu_seconds()
            passages.append(await _turn(supervised, client, ours, size.deltas))
            spent += supervised.cpu_seconds() - before
    rate, bare_rate = median(p.rate for p in passages), median(p.rate for p in bare_passages)
    lagged = sum(p.lagged for p in passages)
    return [
        Row(
            part="streams",
            what=f"a turn of {size.deltas:,} deltas, one subscriber",
            unit="lines/s",
            ours=rate,
            beside=BARE,
            reference=bare_rate,
            promise=Promise(Figure.RATIO, 0.75, at_least=True),
            note=f"{len(passages)} turns each, taking turns; the subscriber lagged {lagged} times",
        ),
        Row(
            part="streams",
            what="CPU time of the supervisor for each line of it",
            unit="µs",
            ours=spent / sum(p.lines for p in passages) * 1e6,
            promise=Promise(Figure.OURS, 15),
        ),
    ]


async def _bare_turn(bare: BareAppServer, thread: str, counter: Counter, n: int) -> Passage:
    counter.begin()
    prompt = [{"type": "text", "text": f"mock:text n={n}"}]
    await bare.request("turn/start", {"threadId": thread, "input": prompt})
    await counter.ended.wait()
    while not bare.notifications.empty():
        bare.notifications.get_nowait()
    return counter.passage(n)


async def _turn(supervised: Supervised, client: RpcClient, thread: str, n: int) -> Passage:
    counter, lagged = Counter(), 0
    stream = client.stream_raw(supervised.project, "subscribe")
    async with aclosing(stream) as payloads:
        await anext(payloads)
        prompt = {"threadId": thread, "text": f"mock:text n={n}"}
        async with supervised.dial() as other:
            await other.call(supervised.project, "sendMessage", prompt)
        async for payload in payloads:
            if not counter.take(payload) and payload.startswith(b'{"type":"lagging"'):
                lagged += 1
            if counter.ended.is_set():
                return counter.passage(n, lagged)
    raise AssertionError("the stream has ended")
