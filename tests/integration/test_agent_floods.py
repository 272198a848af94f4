"""Floods from the agent: what is remembered is bounded, every line is shown, others go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.agents import claims
from supervisor.errors import SupervisorError
from supervisor.stores.memory import MemoryStore
from tests.integration.hosted import Hosted, Seen, hosted, raw, watching
from tests.integration.serving import until

MIB = 1024 * 1024


async def snapshot(host: Hosted, project: str) -> dict[str, Any]:
    async with watching(host, project) as seen:
        shown = json.loads(seen.payloads[0])
        assert isinstance(shown, dict)
        return shown


async def flooded(host: Hosted, seen: Seen, project: str, line: bytes, times: int) -> None:
    """Let the fake write the line so often; meanwhile another project has a turn."""
    healthy = await host.open("healthy")
    other = await host.thread(healthy)
    thread = await host.thread(project)
    turn = await host.send(project, thread, raw(line + b"\n", times))
    async with watching(host, healthy) as beside:
        await beside.until_end(await host.send(healthy, other, "text n=5"))
    await seen.until_end(turn)


THREAD = b'{"method":"thread/started","params":{"thread":{"id":"t-@N@","cwd":"/"}}}'
TURN = b'{"method":"turn/started","params":{"threadId":"@T@","turn":{"id":"u-@N@"}}}'
ITEM = (
    b'{"method":"item/started","params":{"threadId":"@T@","turnId":"@U@",'
    b'"item":{"id":"i-@N@","type":"plan"}}}'
)
BIG_ITEM = ITEM.replace(b'"plan"', b'"plan","x":"%b"' % (b"x" * 40_000))


@pytest.mark.parametrize(
    ("line", "times", "kind", "kept"),
    [
        (THREAD, 100_000, "thread", claims.THREADS_LIMIT),
        (TURN, 5_000, "turn", claims.TURNS_LIMIT),
        (ITEM, 5_000, "item", claims.OPEN_ITEMS_LIMIT),
        (BIG_ITEM, 1000, "item", claims.OPEN_BODIES_LIMIT // len(BIG_ITEM)),
        (THREAD.replace(b"@N@", b"x" * 600), 1, "thread", 1),
    ],
    ids=["threads", "turns", "items", "big_items", "long_id"],
)
async def test_a_flood_of_claims_is_shown_and_not_remembered(
    line: bytes, times: int, kind: str, kept: int, tmp_path: Path
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            await flooded(host, seen, project, line, times)
        shown = [json.loads(m) for m in host.spooled(project)]
        assert [json.loads(m) for m in seen.said] == [m for m in shown if "method" in m]
        memory = host.supervisor.pool.get(project)._ledger.projection.memory
        sizes = {
            "thread": len(memory.threads),
            "turn": len(memory.turns),
            "item": len(memory.items),
        }
        assert sizes[kind] <= kept
        assert host.metric("claims_ignored_total", kind=kind) >= times - kept
        view = await snapshot(host, project)
        assert len(view["threads"]) <= claims.THREADS_LIMIT
        await host.call(project, "listAudit", limit=1)
        offset = host.rows('SELECT "offset" FROM checkpoints WHERE project = ?', project)
        assert offset == [(host.spool(project).stat().st_size,)]


async def test_a_flood_of_questions_waits_up_to_a_bound_and_the_rest_is_refused(
    tmp_path: Path,
) -> None:
    ask = b'{"id":@N@,"method":"item/tool/call","params":{"threadId":"@T@","turnId":"@U@"}}'
    times = 1000
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            await flooded(host, seen, project, ask, times)
            waiting = (await host.call(project, "listApprovals"))["approvals"]
            assert len(waiting) == claims.WAITING_LIMIT
            refused = times - claims.WAITING_LIMIT
            await seen.until(lambda s: s.methods().count("fake/answered") == refused)
            assert host.metric("server_requests_refused_total", reason="overloaded") == refused
            last = [json.loads(m) for m in seen.said if b'"fake/answered"' in m][-1]["params"]
            assert (last["id"], last["error"]["code"]) == (times - 1, -32601)


async def test_a_flood_of_unknown_server_requests_is_answered_as_far_as_it_is_read(
    tmp_path: Path,
) -> None:
    ask = b'{"id":@N@,"method":"new/request","params":{}}'
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            await flooded(host, seen, project, ask, 6_000)
            assert (await host.call(project, "pingProject"))["loadedThreads"] == 1
            unknown = host.metric("server_requests_refused_total", reason="unknown")
            dropped = host.metric("server_requests_refused_total", reason="overloaded")
            assert unknown == 6_000
            await seen.until(lambda s: s.methods().count("fake/answered") == unknown - dropped)


async def test_a_flood_of_empty_lines_leaves_the_others_their_turn(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            await flooded(host, seen, project, b"", 100_000)
            assert host.metric("lines_refused_total", reason="not_json") == 100_000
            records = [m for m in seen.said if b'"supervisor/lineRefused"' in m]
            assert len(records) == 100_000


async def until_reason(host: Hosted, project: str, words: str) -> dict[str, Any]:
    """Poll the project's state until its reason has these words."""
    while True:
        status = await host.call(project, "projectStatus")
        assert isinstance(status, dict)
        if words in (status["reason"] or ""):
            return status
        await asyncio.sleep(0.05)


LONG_ITEM = ITEM.replace(b"item/started", b"item/completed").replace(
    b'"plan"', b'"plan","x":"%b"' % (b"x" * 1000)
)


async def test_an_unread_spool_pauses_the_agent_until_it_is_read(tmp_path: Path) -> None:
    store = MemoryStore()
    async with hosted(
        tmp_path, store, spool_backlog_pause_bytes=MIB, pending_rows_limit=100
    ) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            turn = await host.send(project, thread, "slow n=3 delay=0.3")
            await seen.until(lambda s: "turn/started" in s.methods())
            store.unavailable = True
            await _flood_running_turn(host, project)
            status = await until_reason(host, project, "store is away")
            process = psutil.Process(status["pid"])
            await until(lambda: process.status() == psutil.STATUS_STOPPED)
            assert host.metric("store_failures_total") > 0
            store.unavailable = False
            await seen.until_end(turn)
            await until(lambda: process.status() != psutil.STATUS_STOPPED)
            assert (await host.call(project, "pingProject"))["loadedThreads"] == 1


async def _flood_running_turn(host: Hosted, project: str) -> None:
    """As the app-server would: into its spool, which it holds open to append."""
    line = LONG_ITEM.replace(b"@T@", b"t").replace(b"@U@", b"u")
    lines = b"".join(line.replace(b"@N@", b"%d" % n) + b"\n" for n in range(3000))
    with host.spool(project).open("ab") as spool:
        spool.write(lines)


async def test_a_spool_past_its_last_bound_ends_the_agent_and_says_why(tmp_path: Path) -> None:
    store = MemoryStore()
    async with hosted(
        tmp_path,
        store,
        spool_backlog_pause_bytes=MIB,
        spool_backlog_stop_bytes=2 * MIB,
        pending_rows_limit=100,
    ) as host:
        project, healthy = await host.open("hostile"), await host.open("healthy")
        async with watching(host, project) as seen, watching(host, healthy) as beside:
            thread, other = await host.thread(project), await host.thread(healthy)
            turn = await host.send(project, thread, "hang")
            pid = (await host.call(project, "projectStatus"))["pid"]
            store.unavailable = True
            await _flood_running_turn(host, project)
            await until(lambda: not psutil.pid_exists(pid))
            with pytest.raises(SupervisorError):
                await host.send(healthy, other, "text n=1")
            store.unavailable = False
            await beside.until_end(await host.send(healthy, other, "text n=1"))
            await seen.until(lambda s: s.methods().count("supervisor/agentReady") == 2)
            [exited] = [json.loads(m) for _, m in seen.events if b"agentExited" in m]
            assert "spool" in exited["params"]["detail"]
            interrupted = [m for m in seen.said if b"turn/completed" in m]
            assert [json.loads(m)["params"]["turn"]["id"] for m in interrupted] == [turn]
            assert sum(b'"item/completed"' in m for m in seen.said) == 3000 + 1
