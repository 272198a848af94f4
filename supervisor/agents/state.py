"""What an agent knows of its project: the rows that matter now, and the text of open items.

Rebuilt from the store's rows and the replay window after a restart; `absorb` is how rows enter,
whether they were just written or just read.
"""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from supervisor.agents import claims
from supervisor.ids import ProjectId
from supervisor.policy.access import SUPERVISOR, Principal
from supervisor.ports.store import (
    Batch,
    IntentRow,
    ItemRow,
    ProjectState,
    ServerRequestRow,
    ThreadRow,
    TurnRow,
)

OPEN_TEXT_LIMIT = 1024 * 1024
"""Characters kept of an open item's text; past it the front is dropped and the snapshot says so."""
FULL_TEXTS = 16
"""Open items that may have that much; the more there are, the less a new one may have."""
OWNERS_KEPT = 1000
"""Turns whose owner stays known after their end: background commands report late."""


class OpenItem:
    """An item that has started and not ended, with its text so far."""

    __slots__ = ("_limit", "_parts", "_size", "row", "text_from_n", "truncated")

    def __init__(self, row: ItemRow, limit: int = OPEN_TEXT_LIMIT) -> None:
        self.row = row
        self._limit = limit
        self._parts: list[str] = [row.partial_text] if row.partial_text else []
        self._size = len(row.partial_text or "")
        self.text_from_n = row.partial_n or 0
        self.truncated = False

    def add(self, delta: str) -> None:
        """Append to the text; bounded."""
        self._parts.append(delta)
        self._size += len(delta)
        if self._size > self._limit:
            text = "".join(self._parts)[-self._limit // 2 :]
            self._parts = [text]
            self._size = len(text)
            self.truncated = True

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""


class AgentMemory:
    """The rows of one project that are open, waiting or otherwise needed to go on."""

    def __init__(self, project: ProjectId) -> None:
        self.project = project
        self.threads: dict[str, ThreadRow] = {}
        self.turns: dict[tuple[str, str], TurnRow] = {}
        """Open turns only, by thread and turn."""
        self.items: dict[tuple[str, str], OpenItem] = {}
        """Open items only, by thread and item."""
        self.requests: dict[str, ServerRequestRow] = {}
        """Waiting or answered server requests, by approval id."""
        self.intents: dict[str, IntentRow] = {}
        """Pending ones, by request id."""
        self._owners: OrderedDict[str, Principal] = OrderedDict()

    def load(self, state: ProjectState) -> None:
        """Everything the store says is open."""
        batch = Batch(project=self.project)
        batch.threads.update({r.thread_id: r for r in state.threads})
        batch.turns.update({(r.thread_id, r.turn_id): r for r in state.open_turns})
        batch.items.update({(r.thread_id, r.turn_id, r.item_id): r for r in state.open_items})
        batch.intents.update({r.request_id: r for r in state.pending_intents})
        batch.server_requests.update({r.approval_id: r for r in state.waiting_requests})
        self.absorb(batch)

    def absorb(self, batch: Batch) -> None:
        """Take rows in: open ones are kept, ended ones forgotten."""
        self.threads.update(batch.threads)
        for thread_turn, turn in batch.turns.items():
            if turn.state == "in_progress":
                self.turns[thread_turn] = turn
            else:
                self.turns.pop(thread_turn, None)
        for (thread, _, item_id), item in batch.items.items():
            self._absorb_item((thread, item_id), item)
        for approval_id, request in batch.server_requests.items():
            if request.state in {"waiting", "answered"}:
                self.requests[approval_id] = request
            else:
                self.requests.pop(approval_id, None)
        for request_id, intent in batch.intents.items():
            if intent.state == "pending":
                self.intents[request_id] = intent
            else:
                self.intents.pop(request_id, None)

    def _absorb_item(self, key: tuple[str, str], row: ItemRow) -> None:
        if row.state != "open":
            self.items.pop(key, None)
        elif key in self.items:
            self.items[key].row = row
        else:
            shares = 1 + len(self.items) // FULL_TEXTS
            self.items[key] = OpenItem(row, OPEN_TEXT_LIMIT // shares)

    def has_room_for_item(self, row: ItemRow) -> bool:
        """Whether one more open item may be remembered."""
        if not claims.short(row.thread_id, row.turn_id, row.item_id):
            return False
        held = sum(len(item.row.body) for item in self.items.values())
        fits = held + len(row.body) <= claims.OPEN_BODIES_LIMIT
        known = (row.thread_id, row.item_id) in self.items
        return fits and (known or len(self.items) < claims.OPEN_ITEMS_LIMIT)

    def has_room_for_request(self, row: ServerRequestRow) -> bool:
        """Whether one more server request may wait."""
        if len(row.request_id) > claims.REQUEST_ID_LIMIT:
            return False
        held = sum(len(request.params) for request in self.requests.values())
        fits = held + len(row.params) <= claims.WAITING_BYTES_LIMIT
        return fits and len(self.requests) < claims.WAITING_LIMIT

    def remember_owner(self, turn_id: str, owner: Principal) -> None:
        """Who made the agent run that turn. The first to say so stays."""
        self._owners.setdefault(turn_id, owner)
        while len(self._owners) > OWNERS_KEPT:
            self._owners.popitem(last=False)

    def owner(self, turn_id: str | None) -> Principal:
        """Who is answerable for what that turn does; the supervisor, where nobody asked."""
        return self._owners.get(turn_id or "", SUPERVISOR)

    def turn_of(self, thread_id: str) -> TurnRow | None:
        """The thread's open turn."""
        return next((t for (thread, _), t in self.turns.items() if thread == thread_id), None)

    def is_busy(self, thread_id: str) -> bool:
        """Whether a turn runs on the thread, or is on its way to the app-server."""
        if self.turn_of(thread_id) is not None:
            return True
        return any(
            i.method == "turn/start" and i.thread_id == thread_id for i in self.intents.values()
        )

    def waiting(self) -> list[ServerRequestRow]:
        """Server requests nobody has answered, oldest first."""
        rows = [r for r in self.requests.values() if r.state == "waiting"]
        return sorted(rows, key=lambda r: r.asked_n)

    def partial_rows(self, below_n: int, now_n: int) -> Iterable[ItemRow]:
        """Open items whose deltas start to leave the replay window (DESIGN.md D2), with the text
        they have as of event `now_n`."""
        for item in self.items.values():
            text = item.text
            if text and item.row.started_n < below_n:
                yield msgspec.structs.replace(item.row, partial_text=text, partial_n=now_n)
