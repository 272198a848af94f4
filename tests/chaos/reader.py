"""A subscriber that reconnects: the seat from which the oracle looks."""

import asyncio
from contextlib import aclosing
from typing import Any

from supervisor.errors import SupervisorError
from tests.rig import Rig


class Reader:
    """Subscribes to a whole project, and after every loss continues after its last cursor."""

    def __init__(self, rig: Rig, project: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        """Payloads that are no events: the first snapshot, and what should not come."""
        self._rig = rig
        self._project = project
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                async with self._rig.dial() as client:
                    params = {"after": self.events[-1]["cursor"]} if self.events else {}
                    stream = client.stream(self._project, "subscribe", params)
                    async with aclosing(stream) as payloads:
                        async for payload in payloads:
                            assert isinstance(payload, dict)
                            self._take(payload)
            except SupervisorError:
                await asyncio.sleep(0.01)

    def _take(self, payload: dict[str, Any]) -> None:
        (self.events if payload["type"] == "event" else self.others).append(payload)
        self._changed.set()

    async def until(self, wanted: Any) -> None:
        """Wait until `wanted(self)`."""
        while not wanted(self):
            self._changed.clear()
            await self._changed.wait()

    def messages(self) -> list[dict[str, Any]]:
        return [e["message"] for e in self.events]

    def ends(self, turn_id: str) -> list[str]:
        """The statuses with which that turn was said to end."""
        return [
            m["params"]["turn"]["status"]
            for m in self.messages()
            if m["method"] == "turn/completed" and m["params"]["turn"]["id"] == turn_id
        ]
