"""Beginnings and ends: start, an app-server killed in a turn, many agents adopted, memory."""

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from statistics import median

from supervisor.api.client import RpcClient
from supervisor.testing.app_server import install
from tests.bench.rows import Figure, Promise, Row
from tests.bench.sizes import Size
from tests.bench.stage import Stage, Supervised, stopwatch
from tests.rig import DEADLINE

KIB, MIB = 1024, 1024 * 1024
POLL_SECONDS = 0.02


async def starts(stage: Stage, size: Size) -> list[Row]:
    """Codex from the spawn until it has answered `initialize`; ours waits for a ping as well."""
    first = []
    for _ in range(max(1, size.starts // 3)):
        with stopwatch() as spent:
            async with stage.supervised():
                first.append(spent())
    async with stage.supervised() as supervised:
        theirs, ours = await started(stage, supervised, size.starts)
    return [
        Row(
            part="starts",
            what="an agent, from asked for to answering",
            unit="s",
            ours=median(ours),
            beside="spawn to initialize",
            reference=median(theirs),
            promise=Promise(Figure.RATIO, 1.6),
            note="ours includes two commits and a ping behind `initialize`",
        ),
        Row(part="starts", what="`up`, from spawn to serving", unit="s", ours=median(first)),
    ]


async def started(
    stage: Stage, supervised: Supervised, count: int
) -> tuple[list[float], list[float]]:
    """Seconds a bare codex takes, and an agent: by turns, each in a home that has been used."""
    theirs, ours = [], []
    async with supervised.dial() as client:
        path, project = str(supervised.project_dir), supervised.project
        await client.call(project, "pingProject")
        # Codex's first start in a home takes longer: both have had theirs.
        home = stage.directory("used-home")
        async with stage.bare(home=home):
            pass
        for _ in range(count):
            with stopwatch() as spent:
                async with stage.bare(home=home):
                    theirs.append(spent())
            await client.call(project, "stopProject")
            with stopwatch() as spent:
                await client.call(None, "openProject", {"path": path})
                await client.call(project, "pingProject")
                ours.append(spent())
    return theirs, ours


async def kills(stage: Stage, size: Size) -> list[Row]:
    """SIGKILL of the app-server in a turn; each time of a new supervisor, so that the backoff is
    that of a first exit."""
    taken = [await _killed(stage) for _ in range(size.kills)]
    return [
        Row(
            part="kills",
            what="app-server killed in a turn, until ready again",
            unit="s",
            ours=median(taken),
            promise=Promise(Figure.OURS, 2),
            note=f"{len(taken)} kills, the slowest {max(taken):.2f} s; a jittered backoff included",
        )
    ]


async def _killed(stage: Stage) -> float:
    async with stage.supervised() as supervised, supervised.dial() as client:
        project = supervised.project
        thread = await supervised.thread()
        stream = client.stream_raw(project, "subscribe")
        async with asyncio.timeout(DEADLINE), aclosing(stream) as payloads:
            await anext(payloads)
            async with supervised.dial() as other:
                prompt = {"threadId": thread, "text": "mock:slow n=600"}
                await other.call(project, "sendMessage", prompt)
                status = await other.call(project, "projectStatus")
            assert isinstance(status, dict)
            async for payload in payloads:
                if b'"method":"item/agentMessage/delta"' in payload:
                    break
            with stopwatch() as spent:
                os.kill(status["pid"], signal.SIGKILL)
                async for payload in payloads:
                    if b'"method":"supervisor/agentReady"' in payload:
                        return spent()
    raise AssertionError("the stream has ended")


async def agents(stage: Stage, size: Size) -> list[Row]:
    """Many agents over the tiny app-server: memory, and all of them adopted after a SIGKILL."""
    directory = stage.directory("agents")
    codex = install(directory)
    settings = {"codex_bin": str(codex), "on_shutdown": "keep"}
    async with stage.supervised(**settings) as supervised:
        await all_ready(supervised, 1)
        alone = supervised.memory_bytes()
        for n in range(size.agents):
            await _open(supervised, directory / f"project-{n}")
        before = await all_ready(supervised, size.agents + 1)
        running = (supervised.memory_bytes() - alone) / size.agents / MIB
        supervised.kill()
        with stopwatch() as spent:
            await supervised.start()
            after = await all_ready(supervised, size.agents + 1)
            adopted = spent()
        assert before == after, "an agent was started again"
        await _stop_all(supervised, [project for project, _ in after])
        supervised.signal(signal.SIGTERM)
        await supervised.start()
        stopped = await _memory_of_many_idle(supervised)
        idle = (stopped - alone) / size.agents / KIB
    return [
        Row(
            part="agents",
            what=f"{size.agents} agents adopted after SIGKILL",
            unit="s",
            ours=adopted,
            promise=Promise(Figure.OURS, 2),
            note="from the spawn of `up`, Python's own start included; over scripted app-servers",
        ),
        Row(
            part="agents",
            what="memory of the supervisor for each running agent",
            unit="MiB",
            ours=max(running, 0),
            promise=Promise(Figure.OURS, 3),
        ),
        Row(
            part="agents",
            what="memory for each stopped project",
            unit="KiB",
            ours=max(idle, 0),
            promise=Promise(Figure.OURS, 100),
            note="0: less than one start of the supervisor differs from the next",
        ),
        Row(part="agents", what="memory with one agent", unit="MiB", ours=alone / MIB),
    ]


async def _open(supervised: Supervised, path: Path) -> None:
    path.mkdir()
    async with supervised.dial() as client:
        await client.call(None, "openProject", {"path": str(path)})


async def _statuses(client: RpcClient) -> list[dict[str, object]]:
    listed = await client.call(None, "listProjects")
    assert isinstance(listed, dict)
    return list(listed["projects"])


async def all_ready(supervised: Supervised, count: int) -> list[tuple[str, int]]:
    """Wait until so many agents are; project and pid of each."""
    async with asyncio.timeout(DEADLINE), supervised.dial() as client:
        while True:
            ready = [s for s in await _statuses(client) if s["state"] == "ready"]
            if len(ready) == count:
                return sorted((str(s["project"]), int(str(s["pid"]))) for s in ready)
            await asyncio.sleep(POLL_SECONDS)


async def _stop_all(supervised: Supervised, projects: list[str]) -> None:
    async with supervised.dial() as client, asyncio.TaskGroup() as group:
        for project in projects:
            group.create_task(client.call(project, "stopProject"))


async def _memory_of_many_idle(supervised: Supervised) -> int:
    """`up` opens its own project again, so that one agent runs, as before the others came."""
    await all_ready(supervised, 1)
    return supervised.memory_bytes()
