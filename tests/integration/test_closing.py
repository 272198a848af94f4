"""The end of app-servers: in order, all of them, and nothing left of them."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

import psutil

from supervisor.ids import ProjectId
from supervisor.ports.store import Batch, ProjectState
from tests.integration.hosted import hosted, raw, watching
from tests.integration.troubled import Troubled, answered, fail, ready

PHANTOM = b'{"method":"turn/started","params":{"threadId":"@T@","turn":{"id":"gone"}}}\n'
"""Of a turn that cannot be interrupted: the app-server knows none such."""


class OpensLate(Troubled):
    """A project is read only once the end of another's app-server is being written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.late = ""
        """The path of that project."""
        self.reading, self.ending, self.started = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def project_state(self, project: ProjectId) -> ProjectState:
        row = await self.project(project)
        if row is not None and row.path == self.late:
            self.reading.set()
            await self.ending.wait()
        return await super().project_state(project)

    async def commit(self, batch: Batch) -> None:
        states = {row.state for row in batch.generations.values()}
        if self.late and "ended" in states:
            self.ending.set()
            # As slow as it takes an app-server to start, were one started.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.started.wait()
        await super().commit(batch)
        if self.late and "running" in states:
            self.started.set()


def running_below(root: Path) -> list[int]:
    """The pids of what has its Codex home there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CODEX_HOME", "").startswith(f"{root}{os.sep}"):
                found.append(process.pid)
    return found


async def test_a_project_that_is_being_opened_at_the_end_starts_nothing(tmp_path: Path) -> None:
    store = OpensLate(tmp_path)
    async with asyncio.TaskGroup() as group, hosted(tmp_path, store, on_shutdown="stop") as host:
        await ready(host, await host.open("early"))
        late = host.root / "late"
        late.mkdir()
        store.late = str(late)
        opening = group.create_task(host.call(None, "openProject", path=store.late))
        await store.reading.wait()
        opening.cancel()
    assert not running_below(tmp_path)
    assert not store.started.is_set()
    assert json.loads((tmp_path / "state" / "last-run").read_bytes())["clean"]


async def test_a_refused_interrupt_cuts_nobody_elses_drain_short(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        first, second = await host.thread(project), await host.thread(project)
        async with watching(host, project) as seen:
            await seen.until_end(await host.send(project, first, raw(PHANTOM)))
            turn = await host.send(project, second, "hang")
            await host.call(project, "stopProject")
            await seen.until_end(turn)
            (end,) = [json.loads(each)["message"] for each in seen.ends if turn.encode() in each]
    assert end["params"]["turn"]["status"] == "interrupted"
    assert "emittedAtMs" in end, "the app-server says so itself"


async def test_an_app_server_taken_over_from_a_failed_agent_leaves_no_zombie(
    tmp_path: Path,
) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("p")
        pid = await ready(host, project)
        await fail(host, store, project)
        store.corrupt.clear()
        await host.open("p")
        assert await ready(host, project) == pid
        assert await answered(host, project, "stopProject", {}) == "ok"
        assert not psutil.pid_exists(pid)
