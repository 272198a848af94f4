"""A store with faults, agents that fail by it, and how to wait for what they do."""

import asyncio
from pathlib import Path
from typing import Any

import psutil

from supervisor.api.dialing import connect_unix
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.store import Batch, CommitInDoubtError, ProjectState
from supervisor.stores.sql import SqlStore
from tests.integration.hosted import Hosted

CORRUPT = SupervisorError(ErrorCode.STORE_CORRUPT, "the database is corrupt")
AWAY = SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the database is locked")
ITEM = (
    b'{"method":"item/completed","params":{"threadId":"t","turnId":"u",'
    b'"item":{"id":"i","type":"plan"}}}\n'
)


class Troubled(SqlStore):
    """A real store with faults for one project."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"sqlite:///{root}/state/supervisor.db", clock=SystemClock())
        self.corrupt: set[str] = set()
        """Projects whose commits fail for good."""
        self.unopened: dict[str, SupervisorError] = {}
        """Projects that cannot be read, and why."""
        self.slow = asyncio.Event()
        self.slow.set()
        """Unset, projects wait to be read."""
        self.doubt: str | None = None
        """The method of an intent whose commit is made, and told to be in doubt, once."""

    async def commit(self, batch: Batch) -> None:
        if batch.project in self.corrupt:
            raise CORRUPT
        await super().commit(batch)
        if self.doubt in {row.method for row in batch.intents.values() if row.state == "pending"}:
            self.doubt = None
            raise CommitInDoubtError("the commit failed at its end")

    async def project_state(self, project: ProjectId) -> ProjectState:
        await self.slow.wait()
        if project in self.unopened:
            raise self.unopened[project]
        return await super().project_state(project)


async def fail(host: Hosted, store: Troubled, project: str, generation: int = 1) -> None:
    """Have the agent fail: what its app-server says cannot be committed."""
    store.corrupt.add(project)
    with host.spool(project, generation).open("ab") as spool:
        spool.write(ITEM)
    await until_status(host, project, "reason", "the supervisor failed")


async def until_status(host: Hosted, project: str, field: str, words: str) -> None:
    while True:
        status = await host.call(project, "projectStatus")
        if words in (status[field] or ""):
            return
        await asyncio.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether it runs no more; who started it may not have looked yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def ready(host: Hosted, project: str) -> int:
    """Wait until the app-server answers; its pid."""
    await host.call(project, "pingProject")
    return int((await host.call(project, "projectStatus"))["pid"])


async def answered(host: Hosted, project: str, method: str, params: dict[str, Any]) -> str:
    """The code of the error, or `ok`."""
    async with connect_unix(host.socket) as client:
        try:
            await client.call(project, method, params)
        except SupervisorError as e:
            return e.code.value
        return "ok"
