"""A talk with one project: requests to it, and everything it says meanwhile.

Each request makes a connection of its own, and the reader makes a new one after a loss: a talk
outlives the supervisor it began with. Everything waits up to the rig's deadline.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from supervisor.api.client import RpcClient
from supervisor.api.dialing import connect_websocket
from supervisor.ids import Generation, ProjectId
from supervisor.ports.store import AuditRow
from tests.chaos.reader import Reader
from tests.rig import DEADLINE, FREE, Rig


class Door(Protocol):
    """Where a supervisor is talked to."""

    def dial(self) -> AbstractAsyncContextManager[RpcClient]:
        """One connection."""


@dataclass(frozen=True)
class WebSocketDoor:
    """The WebSocket of a rig's supervisor, with the token it made."""

    rig: Rig

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[RpcClient]:
        addresses = self.rig.addresses
        url = f"ws://{addresses['host']}:{addresses['port']}/v1/rpc"
        token = Path(addresses["token_file"]).read_text().strip()
        async with connect_websocket(url, token) as client:
            yield client


class Talk:
    """Made by `talk`."""

    def __init__(self, door: Door, project: str, reader: Reader) -> None:
        self.project = project
        self.reader = reader
        self._door = door
        self._seen: set[str] = set()
        """Items whose approval `asked` has returned."""

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """A request to the project."""
        async with asyncio.timeout(DEADLINE), self._door.dial() as client:
            result = await client.call(self.project, method, params)
        assert isinstance(result, dict)
        return result

    async def thread(self, policy: dict[str, str] | None = None, **more: object) -> str:
        """Start a thread; its id."""
        return str((await self.call("startThread", **(policy or FREE), **more))["threadId"])

    async def send(self, thread: str, text: str, **more: object) -> str:
        """Start a turn; its id."""
        return str((await self.call("sendMessage", threadId=thread, text=text, **more))["turnId"])

    async def run(self, thread: str, text: str) -> str:
        """Let a whole turn run, which has to complete; its id."""
        turn = await self.send(thread, text)
        assert await self.ended(turn) == "completed"
        return turn

    async def until(self, wanted: Callable[[Reader], Any]) -> None:
        """Wait until the reader has seen it."""
        async with asyncio.timeout(DEADLINE):
            await self.reader.until(wanted)

    async def told(self, method: str, /, **params: object) -> dict[str, Any]:
        """Wait for an event of that method with those params; its params."""

        def found(reader: Reader) -> list[dict[str, Any]]:
            every = (m.get("params", {}) for m in reader.messages() if m["method"] == method)
            return [p for p in every if params.items() <= p.items()]

        await self.until(found)
        return found(self.reader)[0]

    async def ended(self, turn: str) -> str:
        """Wait for the end of a turn, which is told once; how it ended."""
        await self.until(lambda reader: reader.ends(turn))
        (status,) = self.reader.ends(turn)
        return status

    async def asked(self, turn: str) -> dict[str, Any]:
        """Wait until that turn waits for somebody; the approval as it is listed. Each once."""

        def news(reader: Reader) -> list[str]:
            every = (m for m in reader.messages() if m["method"].endswith("requestApproval"))
            items = [m["params"]["itemId"] for m in every if m["params"]["turnId"] == turn]
            return [item for item in items if item not in self._seen]

        await self.until(news)
        item = news(self.reader)[0]
        self._seen.add(item)
        waiting = (await self.call("listApprovals"))["approvals"]
        (mine,) = [one for one in waiting if one["itemId"] == item]
        return dict(mine)

    async def answer(self, approval: dict[str, Any], decision: str) -> None:
        """Answer an approval."""
        await self.call("answerApproval", approvalId=approval["approvalId"], decision=decision)

    async def ready(self) -> dict[str, Any]:
        """Wait until the agent answers; the project's state then."""
        await self.call("pingProject")
        return await self.call("projectStatus")

    async def status(self, **wanted: object) -> dict[str, Any]:
        """Wait until the project's state has these values; all of it."""
        async with asyncio.timeout(DEADLINE):
            while True:
                status = await self.call("projectStatus")
                if wanted.items() <= status.items():
                    return status
                await asyncio.sleep(0.01)

    async def audit(self, **params: object) -> list[AuditRow]:
        """The audit log, as the rows that were hashed."""
        records = (await self.call("listAudit", limit=1000, **params))["records"]
        return [_row(self.project, record) for record in records]


def _row(project: str, record: dict[str, Any]) -> AuditRow:
    names = {f.encode_name: f.name for f in msgspec.structs.fields(AuditRow)}
    shown = {_snake(name): value for name, value in record.items()}
    assert shown.keys() <= set(names.values())
    detail = msgspec.json.encode(shown["detail"], order="sorted")
    generation = Generation(shown["generation"])
    return AuditRow(
        **{**shown, "project": ProjectId(project), "detail": detail, "generation": generation}
    )


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


async def eventually(wanted: Callable[[], bool]) -> None:
    """Wait for something that nobody tells: files, processes."""
    async with asyncio.timeout(DEADLINE):
        while not wanted():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def talk(rig: Rig, door: Door | None = None) -> AsyncIterator[Talk]:
    """Open the rig's project and listen to all of it, from before the first answer."""
    door = door or rig
    async with asyncio.timeout(DEADLINE), door.dial() as client:
        project = await rig.open(client)
    reader = Reader(door, project)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(reader.run())
        made = Talk(door, project, reader)
        await made.until(lambda reader: reader.others)
        yield made
        reading.cancel()
