"""Approvals of one thread, while it is watched: asked here, or said how to answer elsewhere.

The list of the supervisor is asked again whenever an event says that it may have changed; events
themselves may be old. So an approval that somebody else answered closes its prompt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from supervisor.cli import output
from supervisor.cli.pieces import Piece, listed, marked, told, word
from supervisor.cli.prompting import Dialog, decisions
from supervisor.cli.rendering import View
from supervisor.cli.terminal import Keyboard, Terminal
from supervisor.errors import ErrorCode, SupervisorError

Call = Callable[[str, dict[str, object]], Awaitable[dict[str, object]]]
"""Asks a method of the project."""

_CHANGES = frozenset({"serverRequest/resolved", "supervisor/approvalAnswered", "turn/completed"})
_TOO_LATE = frozenset({ErrorCode.APPROVAL_SETTLED, ErrorCode.APPROVAL_UNKNOWN})


class Asker(Protocol):
    """What deals with approvals."""

    def heard(self, payload: Mapping[str, object]) -> None:
        """A payload of the thread's events came."""

    async def run(self) -> None:
        """Deal with them until cancelled."""


class _Waiting:
    """The approvals of a thread that wait, and when to look again."""

    def __init__(self, call: Call, thread_id: str) -> None:
        self._call = call
        self._thread_id = thread_id
        self._changed = asyncio.Event()

    def heard(self, payload: Mapping[str, object]) -> None:
        message = told(payload.get("message"))
        asks = "id" in message
        if payload.get("type") == "snapshot" or asks or message.get("method") in _CHANGES:
            self._changed.set()

    async def change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def now(self) -> list[dict[str, Any]]:
        answer = await self._call("listApprovals", {"threadId": self._thread_id})
        shown = map(told, listed(answer.get("approvals")))
        return [one for one in shown if one.get("state") == "waiting"]


class Announcer:
    """Without a keyboard: says on standard error what waits, and how to answer."""

    def __init__(self, call: Call, thread_id: str, answer_command: str) -> None:
        self._waiting = _Waiting(call, thread_id)
        self._command = answer_command
        self._said: set[str] = set()
        self.heard = self._waiting.heard

    async def run(self) -> None:
        while True:
            await self._waiting.change()
            for approval in await self._waiting.now():
                if approval["approvalId"] not in self._said:
                    self._said.add(approval["approvalId"])
                    output.note("\n".join(how_to_answer(approval, self._command)))


def how_to_answer(approval: Mapping[str, Any], command: str) -> list[str]:
    """The lines that say how."""
    approval_id, method = word(approval.get("approvalId")), word(approval.get("method"))
    words = decisions(method)
    how = f"{command} {approval_id} {words[0]}" if words else f"{command} {approval_id} --text ..."
    others = f"   (or: {', '.join(words[1:])})" if len(words) > 1 else ""
    return [f"{marked(method)} waits for an answer:", f"  {how}{others}"]


class Prompter:
    """With a keyboard: asks, one at a time."""

    def __init__(
        self, call: Call, thread_id: str, terminal: Terminal, view: View, root: str
    ) -> None:
        self._call = call
        self._waiting = _Waiting(call, thread_id)
        self._terminal = terminal
        self._view = view
        self._root = root
        self._keyboard = Keyboard()
        self._dealt_with: set[str] = set()
        self.heard = self._waiting.heard

    async def run(self) -> None:
        while True:
            await self._waiting.change()
            while waiting := [a for a in await self._waiting.now() if self._is_new(a)]:
                await self._settle(waiting[0])

    def _is_new(self, approval: Mapping[str, Any]) -> bool:
        return approval["approvalId"] not in self._dealt_with

    async def _settle(self, approval: Mapping[str, Any]) -> None:
        dialog = Dialog(approval, self._view.item(approval.get("itemId")), self._root)
        self._dealt_with.add(dialog.approval_id)
        self._terminal.show(dialog.pieces)
        if not dialog.can_be_answered:
            self._terminal.show([Piece("only a program can answer this", "yellow")])
            return
        self._view.seen_whole(approval.get("itemId"))
        answer = await self._answer(dialog)
        if answer is None:
            self._terminal.show([Piece("answered elsewhere, or no longer asked", "yellow")])
            return
        try:
            await self._call("answerApproval", answer)
        except SupervisorError as error:
            if error.code is ErrorCode.BAD_REQUEST:
                self._dealt_with.discard(dialog.approval_id)
            elif error.code not in _TOO_LATE:
                raise
            self._terminal.show([Piece(error.message, "yellow")])

    async def _answer(self, dialog: Dialog) -> dict[str, object] | None:
        """What the person says; None if the question went away before."""
        async with self._keyboard.lines() as typed, asyncio.TaskGroup() as group:
            gone = group.create_task(self._gone(dialog.approval_id))
            said = group.create_task(self._said(dialog, typed))
            try:
                await asyncio.wait({gone, said}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                said.cancel()
                self._terminal.asked(answered=said.done() and not said.cancelled())
        return said.result() if said.done() and not said.cancelled() else None

    async def _said(
        self, dialog: Dialog, typed: asyncio.Queue[str | None]
    ) -> dict[str, object] | None:
        while True:
            self._terminal.ask(dialog.prompt, again=dialog.repeated)
            line = await typed.get()
            if line is None:
                self._terminal.show([Piece("nobody types here any more", "yellow")])
                await asyncio.Future()
            self._terminal.asked(answered=True)
            answer = dialog.take(line or "")
            if answer is not None:
                return answer

    async def _gone(self, approval_id: str) -> None:
        """Return once it is not to be answered any more."""
        while True:
            if all(one["approvalId"] != approval_id for one in await self._waiting.now()):
                return
            await self._waiting.change()
