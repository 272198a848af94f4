"""Requests: a read, and one that acts, beside bare stdio and codex's own WebSocket."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import aiohttp
import msgspec

from supervisor.api.dialing import connect_websocket
from supervisor.clock import SystemClock
from supervisor.ids import ProjectId
from supervisor.ports.store import Batch
from supervisor.stores.sql import SqlStore
from supervisor.testing.driver import BareAppServer
from tests.bench.rows import Figure, Promise, Row
from tests.bench.sampling import Ask, Timed, p50, p99, round_trips, timed
from tests.bench.sizes import Size
from tests.bench.stage import PING, Stage, Supervised
from tests.contract.stored import audit, checkpoint, intent, project_row
from tests.rig import FREE

BARE = "bare stdio"
OWN = "codex's WebSocket"
ADDED_P50 = 0.10
ADDED_P99 = 0.5
PROMPT = "mock:text n=1"
PAUSE = 0.05
"""Seconds before each turn and each commit: longer than the commits behind the turn before."""


async def reads(stage: Stage, size: Size) -> list[Row]:
    """A read that codex answers from memory."""
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(stage.bare())
        own = await stack.enter_async_context(stage.own_websocket())
        supervised = await stack.enter_async_context(stage.supervised())
        unix = await stack.enter_async_context(supervised.dial())
        url, project = supervised.addresses["url"], supervised.project
        socket = await stack.enter_async_context(connect_websocket(url, supervised.token))
        await unix.call(project, "pingProject")
        ways: dict[str, Timed] = {
            BARE: timed(lambda: bare.request(PING, {})),
            OWN: timed(await stack.enter_async_context(_asking_codex(own))),
            "unix socket": timed(lambda: unix.call(project, "pingProject")),
            "WebSocket": timed(lambda: socket.call(project, "pingProject")),
        }
        taken = await round_trips(ways, size.requests)
    rows = [_row(taken, OWN, BARE, None)]
    rows += [_row(taken, way, BARE, (ADDED_P50, ADDED_P99)) for way in ("unix socket", "WebSocket")]
    own_row = _row(taken, "WebSocket", OWN, None)
    return [r for pair in [*rows, own_row] for r in pair]


async def contained_reads(stage: Stage, size: Size) -> list[Row]:
    """The same with the app-server in a container."""
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(stage.bare())
        supervised = await stack.enter_async_context(stage.contained())
        unix = await stack.enter_async_context(supervised.dial())
        project = supervised.project
        await unix.call(project, "pingProject")
        ways: dict[str, Timed] = {
            BARE: timed(lambda: bare.request(PING, {})),
            "unix socket, podman": timed(lambda: unix.call(project, "pingProject")),
        }
        taken = await round_trips(ways, size.requests)
    return list(_row(taken, "unix socket, podman", BARE, (ADDED_P50, ADDED_P99)))


Pair = tuple[Row, Row]


def _row(
    taken: dict[str, list[float]], way: str, beside: str, added: tuple[float, float] | None
) -> Pair:
    def one(name: str, value: float, reference: float, bound: float | None) -> Row:
        promise = Promise(Figure.ADDED, bound) if bound is not None else None
        if beside == OWN:
            promise = Promise(Figure.RATIO, 1)
        return Row(
            part="reads",
            what=f"read, {way}, {name}",
            unit="ms",
            ours=value,
            beside=beside,
            reference=reference,
            promise=promise,
        )

    ours, theirs = taken[way], taken[beside]
    return (
        one("p50", p50(ours), p50(theirs), added and added[0]),
        one("p99", p99(ours), p99(theirs), added and added[1]),
    )


@asynccontextmanager
async def _asking_codex(url: str) -> AsyncIterator[Ask]:
    """Asks codex's own WebSocket, over the library that our client uses."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=0, max_msg_size=0) as socket,
    ):
        last = 0

        async def ask(method: str, params: object) -> object:
            nonlocal last
            last += 1
            asked = {"id": last, "method": method, "params": params}
            frame = msgspec.json.encode(asked)
            await socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
            while True:
                message = await socket.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, message
                answer = msgspec.json.decode(message.data)
                if answer.get("id") == last and "method" not in answer:
                    return answer["result"]

        info = {"name": "bench", "title": None, "version": "0"}
        await ask("initialize", {"clientInfo": info, "capabilities": {}})
        await socket.send_str('{"method":"initialized"}')
        yield lambda: ask(PING, {})


async def acts(stage: Stage, size: Size) -> list[Row]:
    """Starting a turn, until codex has taken it; the turn's own time is not counted. Its intent
    and audit record are durable before codex hears of it."""
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(stage.bare())
        supervised = await stack.enter_async_context(stage.supervised())
        ways: dict[str, Timed] = {
            BARE: await _starting_bare_turns(bare),
            "commit": timed(await stack.enter_async_context(_committing(stage)), PAUSE),
            "unix socket": await stack.enter_async_context(_starting_turns(supervised)),
        }
        taken = await round_trips(ways, size.acts)
    rows = []
    for name, of, added in (("p50", p50, ADDED_P50), ("p99", p99, ADDED_P99)):
        alone = of(taken["commit"])
        rows += [
            Row(part="acts", what=f"one store commit alone, {name}", unit="ms", ours=alone),
            Row(
                part="acts",
                what=f"a turn started, unix socket, {name}",
                unit="ms",
                ours=of(taken["unix socket"]),
                beside=BARE,
                reference=of(taken[BARE]),
                promise=Promise(Figure.ADDED, added + alone),
            ),
        ]
    return rows


async def _starting_bare_turns(bare: BareAppServer) -> Timed:
    started = await bare.request("thread/start", dict(FREE))
    thread = str(started["thread"]["id"])
    params = {"threadId": thread, "input": [{"type": "text", "text": PROMPT}]}

    async def start() -> float:
        seconds = await timed(lambda: bare.request("turn/start", params), PAUSE)()
        await bare.until("turn/completed")
        return seconds

    return start


@asynccontextmanager
async def _starting_turns(supervised: Supervised) -> AsyncIterator[Timed]:
    project = supervised.project
    async with supervised.dial() as client, supervised.dial() as other:
        params = {"threadId": await supervised.thread(), "text": PROMPT}
        async with aclosing(other.stream_raw(project, "subscribe")) as payloads:
            await anext(payloads)

            async def start() -> float:
                send = timed(lambda: client.call(project, "sendMessage", params), PAUSE)
                seconds = await send()
                async for payload in payloads:
                    if b'"method":"turn/completed"' in payload:
                        break
                return seconds

            yield start


@asynccontextmanager
async def _committing(stage: Stage) -> AsyncIterator[Ask]:
    """What a request that acts commits, in a database of its own on the same disk."""
    path = stage.directory("store") / "bench.db"
    store = SqlStore(f"sqlite:///{path}", clock=SystemClock())
    await store.open()
    project = ProjectId("bench")
    await store.put_project(project_row(project))
    seq = 0

    async def commit() -> None:
        nonlocal seq
        seq += 1
        row = intent(f"run-{seq}", project, method="turn/start")
        batch = Batch(project=project, intents={row.request_id: row})
        batch.audit.append(audit(seq, project))
        batch.checkpoint = checkpoint(project, next_n=seq, audit_seq=seq)
        await store.commit(batch)

    try:
        yield commit
    finally:
        await store.close()
