"""Who watches the demonstration: a subscriber that reconnects, shows all and keeps all."""

import asyncio
import difflib
from contextlib import aclosing
from typing import Any

from rich.console import Console
from rich.text import Text

from supervisor.api.following import Patience, follow
from supervisor.cli.demo_stage import Stage
from supervisor.cli.output import plain
from supervisor.errors import SupervisorError

PATIENCE_SECONDS = 30.0
COMMAND_ASKED = "item/commandExecution/requestApproval"
PATCH_ASKED = "item/fileChange/requestApproval"
DELTA = "item/agentMessage/delta"


class Viewer:
    """Follows one project. `run` in a task; everything else is for those who wait."""

    def __init__(self, stage: Stage, project: str, story: Console) -> None:
        self.events: list[dict[str, Any]] = []
        self.losses = 0
        """Times the connection was lost."""
        self.resumed_after: str | None = None
        """The cursor the last new connection continued after."""
        self._stage = stage
        self._project = project
        self.story = story
        self._snapshots: list[str] = []
        self._changed = asyncio.Event()
        self._in_text = False

    async def run(self) -> None:
        """For ever. Raises `supervisor_unreachable` when no supervisor comes back."""
        patience = Patience(seconds=PATIENCE_SECONDS)
        stream = follow(
            self._stage.dial, self._project, patience=patience, on_lost=self._lost_connection
        )
        async with aclosing(stream) as payloads:
            async for payload in payloads:
                if payload["type"] == "event":
                    self.events.append(payload)
                    self._show(_object(payload["message"]))
                else:
                    self._snapshots.append(str(payload.get("cursor")))
                self._changed.set()

    async def until(self, wanted: Any) -> None:
        """Wait until `wanted()` is true."""
        while not wanted():
            self._changed.clear()
            await self._changed.wait()

    def say(self, text: str, style: str = "") -> None:
        """A line of the story, on a line of its own."""
        self.end_line()
        self.story.print(Text(plain(text), style))

    def end_line(self) -> None:
        """End the line that the agent's text is on."""
        if self._in_text:
            self.story.print()
            self._in_text = False

    def of(self, method: str, turn: str) -> list[dict[str, Any]]:
        """The params of a turn's messages of that method."""
        params = (e["message"]["params"] for e in self.events if e["message"]["method"] == method)
        return [p for p in params if p.get("turnId", p.get("turn", {}).get("id")) == turn]

    def asked(self, turn: str) -> int:
        """How often Codex has asked for an approval."""
        return len(self.of(COMMAND_ASKED, turn)) + len(self.of(PATCH_ASKED, turn))

    def text(self, turn: str) -> str:
        """What the agent has said in that turn, put together from the pieces."""
        return "".join(params["delta"] for params in self.of(DELTA, turn))

    def pieces(self, turn: str) -> int:
        """In how many pieces it came."""
        return len(self.of(DELTA, turn))

    def ends(self, turn: str) -> list[str]:
        """The statuses with which the turn was said to end."""
        return [params["turn"]["status"] for params in self.of("turn/completed", turn)]

    def items(self, kind: str, turn: str) -> list[dict[str, Any]]:
        """The items of that kind, as they were when they ended."""
        items = (params["item"] for params in self.of("item/completed", turn))
        return [item for item in items if item["type"] == kind]

    def unbroken(self) -> bool:
        """One snapshot, and each event names the one before it: none is missing, none is twice."""
        before = self._snapshots[0] if self._snapshots else None
        for event in self.events:
            if event["prev"] != before:
                return False
            before = event["cursor"]
        return len(self._snapshots) == 1 and len({e["cursor"] for e in self.events}) == len(
            self.events
        )

    def _lost_connection(self, _error: SupervisorError) -> None:
        if self.resumed_after is None:
            self.losses += 1
            self.resumed_after = self.events[-1]["cursor"] if self.events else None
            self.say(f"[the connection is lost; going on after {self.resumed_after}]", "yellow")

    def _show(self, message: dict[str, Any]) -> None:
        method, params = message["method"], message.get("params") or {}
        if method == DELTA:
            self._in_text = True
            self.story.print(Text(plain(params["delta"])), end="")
        elif method == "item/started" and params["item"]["type"] == "fileChange":
            self._show_changes(params["item"]["changes"])
        elif method == "item/completed":
            self._show_end(params["item"])
        elif method == COMMAND_ASKED:
            self.say(f"? Codex asks: may this run?   {params.get('command')}", "bold yellow")
        elif method == PATCH_ASKED:
            self.say("? Codex asks: may these files change?", "bold yellow")

    def _show_changes(self, changes: list[dict[str, Any]]) -> None:
        for change in changes:
            self.say(f"~ {change['path']}   [{change['kind']['type']}]", "cyan")
            self.show_diff(change["diff"].splitlines())

    def _show_end(self, item: dict[str, Any]) -> None:
        if item["type"] == "commandExecution":
            self.say(f"$ {item['command']}   [{item['status']}, exit {item['exitCode']}]", "cyan")
            for line in (item.get("aggregatedOutput") or "").splitlines():
                self.say(f"  {line}", "dim")
        elif item["type"] == "fileChange":
            self.say(f"~ [{item['status']}]", "cyan")

    def show_diff(self, lines: list[str]) -> None:
        """A unified diff, in its colours."""
        for line in lines:
            style = {"+": "green", "-": "red"}.get(line[:1], "dim")
            self.say(f"  {line}", style)


def _object(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def compared(name: str, before: str, after: str) -> list[str]:
    """What changed in a file, as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} before", f"{name} after", lineterm="", n=1
    )
    return list(lines)
