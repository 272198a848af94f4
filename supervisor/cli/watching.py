"""One turn as it is watched: sent, followed to its end, interrupted or left alone.

The supervisor may be killed and come back meanwhile: every call is made again, and the events
continue after the last one seen.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from supervisor.api.following import Dial, Lost, ask, follow
from supervisor.cli import output
from supervisor.cli.asking import Asker
from supervisor.cli.pieces import Piece, listed, told, word
from supervisor.cli.rendering import View
from supervisor.cli.terminal import Terminal
from supervisor.errors import SupervisorError
from supervisor.ids import Cursor

DETACHED = "detached"
_ENDED = frozenset({"completed", "failed", "interrupted"})
STATUS_OF = {"completed": os.EX_OK, "failed": os.EX_UNAVAILABLE}
"""Exit statuses; of an interrupted turn, and one left alone, that of Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a command reaches one project's supervisor, again and again."""

    dial: Dial
    on_lost: Lost
    project: str

    async def call(self, method: str, params: dict[str, object] | None = None) -> dict[str, object]:
        """What may be asked twice (see `following.ask`)."""
        return await ask(self.dial, self.project, method, params, on_lost=self.on_lost)


class Screen(Protocol):
    """Where a turn is shown."""

    def show(self, payload: Mapping[str, object]) -> None:
        """A payload of its events."""

    def say(self, text: str) -> None:
        """A word of the command's own."""

    def end(self) -> None:
        """The last thing."""


class PeopleScreen:
    """For a reader."""

    def __init__(self, terminal: Terminal, view: View) -> None:
        self._terminal = terminal
        self._view = view

    def show(self, payload: Mapping[str, object]) -> None:
        self._terminal.show(self._view.take(payload))

    def say(self, text: str) -> None:
        self._terminal.show([Piece(text, "dim")])

    def end(self) -> None:
        self._terminal.end()


class JsonScreen:
    """For a program: the payloads, a line each."""

    def show(self, payload: Mapping[str, object]) -> None:
        output.line(payload)

    def say(self, text: str) -> None:
        output.note(text)

    def end(self) -> None:
        """Nothing is open."""


class Watch:
    """One turn of one thread. `after` is where its events begin."""

    def __init__(
        self, link: Link, screen: Screen, asker: Asker, thread_id: str, after: str
    ) -> None:
        self.cursor = after
        """Of the last event seen."""
        self.turn_id: str | None = None
        self._link = link
        self._screen = screen
        self._asker = asker
        self._thread_id = thread_id
        self._ends: dict[str, str] = {}
        self._gap: Mapping[str, object] | None = None
        """The last snapshot: what ended before it was told to nobody here."""
        self._known = asyncio.Event()
        """The turn has an id."""
        self._over = asyncio.Event()
        self._detached = asyncio.Event()
        self._presses = 0
        self._pressed = asyncio.Event()

    async def carry_out(self, message: dict[str, object]) -> str:
        """Send the message, and watch the turn to its end: its status, or `detached`."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (
                        self._follow(),
                        self._asker.run(),
                        self._send(message),
                        self._interrupt_when_told(),
                    )
                ]
                with self._ctrl_c():
                    ends = [group.create_task(e.wait()) for e in (self._over, self._detached)]
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in (*tasks, *ends):
                    task.cancel()
        finally:
            self._screen.end()
        return self._ends.get(self.turn_id or "", DETACHED)

    async def _send(self, message: dict[str, object]) -> None:
        sent = await self._link.call("sendMessage", {"threadId": self._thread_id, **message})
        self.turn_id = word(sent.get("turnId"))
        self._known.set()
        self._look()
        if self._gap is not None:
            await self._look_up(self._gap)

    async def _follow(self) -> None:
        payloads = follow(
            self._link.dial,
            self._link.project,
            self._thread_id,
            Cursor.parse(self.cursor),
            on_lost=self._link.on_lost,
        )
        async with aclosing(payloads):
            async for payload in payloads:
                self._screen.show(payload)
                self._asker.heard(payload)
                await self._note(payload)

    async def _note(self, payload: Mapping[str, object]) -> None:
        if payload.get("type") == "snapshot":
            self._gap = payload
            await self._look_up(payload)
        if payload.get("type") in ("event", "snapshot"):
            self.cursor = word(payload.get("cursor"))
        message = told(payload.get("message"))
        if message.get("method") == "turn/completed":
            turn = told(told(message.get("params")).get("turn"))
            self._ends[word(turn.get("id"))] = word(turn.get("status"))
            self._look()

    async def _look_up(self, snapshot: Mapping[str, object]) -> None:
        """After a gap: a turn that is not open any more has ended in it."""
        threads = map(told, listed(snapshot.get("threads")))
        open_turns = {told(thread.get("turn")).get("turnId") for thread in threads}
        if self.turn_id is None or self.turn_id in open_turns:
            return
        read = await self._link.call(
            "readThread", {"threadId": self._thread_id, "includeTurns": True}
        )
        for turn in map(told, listed(told(read.get("thread")).get("turns"))):
            if turn.get("id") == self.turn_id and turn.get("status") in _ENDED:
                self._show_missed(turn)
                self._ends[self.turn_id] = word(turn.get("status"))
                self._look()

    def _show_missed(self, turn: dict[str, Any]) -> None:
        for item in listed(turn.get("items")):
            if told(item).get("type") != "userMessage":
                params = {"item": item}
                message = {"method": "item/completed", "params": params}
                self._screen.show({"type": "event", "message": message})

    def _look(self) -> None:
        if self.turn_id in self._ends:
            self._over.set()

    # -- Ctrl-C

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._press)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _press(self) -> None:
        self._presses += 1
        if self._presses == 1:
            self._screen.say("interrupting the turn; Ctrl-C again leaves it alone")
            self._pressed.set()
        else:
            self._detached.set()

    async def _interrupt_when_told(self) -> None:
        await self._pressed.wait()
        await self._known.wait()
        try:
            await self._link.call(
                "interruptTurn", {"threadId": self._thread_id, "turnId": self.turn_id}
            )
        except SupervisorError as error:
            # Most likely it ended by itself; else a second Ctrl-C is the way out.
            self._screen.say(f"not interrupted: {error.message}")
