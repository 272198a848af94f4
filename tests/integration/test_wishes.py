"""What people want of a project is told, stored and carried out together, whatever fails."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.policy.places import project_id
from supervisor.ports.store import Batch, ProjectRow
from supervisor.testing.app_server import install
from tests.integration.hosted import Hosted, hosted, watching
from tests.integration.serving import until
from tests.integration.troubled import AWAY, Troubled, answered, ended, fail, ready, until_status


class Wishing(Troubled):
    """Its faults concern the rows of projects."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.away: set[str] = set()
        """`alone`: no project's row can be written by itself; `batch`: nor beside others."""
        self.hold: bytes | None = None
        """The next commit of an event with this method waits for `go`."""
        self.held_back: SupervisorError | None = None
        """What becomes of it then, unless it is made."""
        self.held, self.go = asyncio.Event(), asyncio.Event()

    async def commit(self, batch: Batch) -> None:
        if "batch" in self.away and batch.wished is not None:
            raise AWAY
        if self.hold is not None and any(self.hold in event.message for event in batch.events):
            self.hold = None
            self.held.set()
            await self.go.wait()
            if self.held_back is not None:
                raise self.held_back
        await super().commit(batch)

    async def put_project(self, row: ProjectRow) -> None:
        if "alone" in self.away:
            raise AWAY
        await super().put_project(row)


def stored(host: Hosted, columns: str) -> tuple[object, ...]:
    (row,) = host.rows(f"SELECT {columns} FROM projects")
    return row


@pytest.mark.parametrize("away", [{"alone"}, {"alone", "batch"}])
async def test_what_is_told_of_a_wish_is_what_is_stored(away: set[str], tmp_path: Path) -> None:
    store = Wishing(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("p")
        async with watching(host, project) as seen:
            await host.call(project, "trustProject", trusted=True)
            store.away = away
            code = await answered(host, project, "trustProject", {"trusted": False})
            assert code == ("store_unavailable" if "batch" in away else "ok")
            store.away = set()
            await host.call(project, "restartProject")
            await seen.until(lambda s: "supervisor/projectRestarted" in s.methods())
            told = "supervisor/projectUntrusted" in seen.methods()
        audited = host.rows("SELECT 1 FROM audit WHERE kind = 'project.untrusted'")
        status = await host.call(project, "projectStatus")
        assert told == bool(audited) == (code == "ok")
        assert stored(host, "trusted") == (status["trusted"],) == (not told,)


async def test_the_agent_after_a_failed_one_goes_by_what_is_stored(tmp_path: Path) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("p")
        await host.call(project, "trustProject", trusted=True)
        await ready(host, project)
        # Committed, and the agent fails before it is told.
        row = await store.project(ProjectId(project))
        assert row is not None
        await store.put_project(msgspec.structs.replace(row, trusted=False))
        generation = (await host.call(project, "projectStatus"))["generation"]
        await fail(host, store, project, generation)
        store.corrupt.clear()
        await host.open("p")
        await host.call(project, "stopProject")
        await host.open("p")
        assert stored(host, "trusted") == (0,)
        assert not (await host.call(project, "projectStatus"))["trusted"]


async def test_wishes_that_are_carried_out_at_the_end_leave_what_is_desired(
    tmp_path: Path,
) -> None:
    store = Wishing(tmp_path)
    async with asyncio.TaskGroup() as group, hosted(tmp_path, store, on_shutdown="stop") as host:
        project = await host.open("p")
        pid = await ready(host, project)
        store.hold, store.held_back = b"supervisor/projectTrusted", AWAY
        for _ in range(2):  # the second one waits for the first, which fails
            group.create_task(answered(host, project, "trustProject", {"trusted": True}))
        await store.held.wait()
        await group.create_task(answered(host, project, "projectStatus", {}))
        group.create_task(go_on_after(pid, store))
    assert stored(host, "desired") == ("running",)


async def go_on_after(pid: int, store: Wishing) -> None:
    """Let the store go on once that app-server has been ended."""
    await until(lambda: ended(pid))
    store.go.set()


async def until_exits(host: Hosted, project: str, count: int) -> None:
    while True:
        if (await host.call(project, "projectStatus"))["restarts"] >= count:
            return
        await asyncio.sleep(0.01)


async def test_a_restart_asked_before_a_project_is_given_up_keeps_it_from_that(
    tmp_path: Path,
) -> None:
    store = Wishing(tmp_path)
    store.hold = b"supervisor/projectRestarted"
    restart = {"base_seconds": 0.01, "cap_seconds": 0.05, "intensity": 50}
    async with hosted(tmp_path, store, restart=restart) as host:
        in_the_way = host.spool(project_id(tmp_path / "p")).parent
        for directory in (in_the_way.parent.parent, in_the_way.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        in_the_way.touch()
        project = await host.open("p")
        async with asyncio.TaskGroup() as group:
            group.create_task(host.call(project, "restartProject"))
            await store.held.wait()
            # One too many: it is about to be given up.
            await until_exits(host, project, 51)
            in_the_way.unlink()
            store.go.set()
        await ready(host, project)
        assert stored(host, "quarantine") == (None,)


async def test_a_restart_asked_while_a_project_is_given_up_is_carried_out(tmp_path: Path) -> None:
    store = Wishing(tmp_path)
    store.hold = b"supervisor/agentQuarantined"
    async with hosted(tmp_path, store, on_shutdown="stop") as host:
        (host.root / "codex").unlink()
        project = await host.open("p")
        await store.held.wait()
        install(host.root)
        async with asyncio.TaskGroup() as group:
            group.create_task(host.call(project, "restartProject"))
            await group.create_task(host.call(project, "projectStatus"))  # it has been begun
            store.go.set()
        await ready(host, project)
        assert stored(host, "quarantine") == (None,)


async def test_what_was_mended_outside_is_tried_again_by_the_next_supervisor(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path, codex_bin=tmp_path / "nowhere") as host:
        project = await host.open("p")
        await until_status(host, project, "state", "quarantined")
    async with hosted(tmp_path) as host:
        await host.open("p")
        await ready(host, project)


async def test_what_ended_too_often_stays_given_up_under_the_next_supervisor(
    tmp_path: Path,
) -> None:
    restart = {"base_seconds": 0.01, "cap_seconds": 0.05, "intensity": 1}
    (tmp_path / "bad").mkdir()
    bad = install(tmp_path / "bad", "exit-at-once")
    async with hosted(tmp_path, codex_bin=bad, restart=restart) as host:
        project = await host.open("p")
        await until_status(host, project, "state", "quarantined")
    async with hosted(tmp_path) as host:
        with pytest.raises(SupervisorError) as raised:
            await host.call(project, "pingProject")
        assert raised.value.code is ErrorCode.AGENT_QUARANTINED
        # What it said in the end is kept, for people.
        assert "was told to exit" in raised.value.message
