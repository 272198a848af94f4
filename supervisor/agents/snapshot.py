"""The snapshot a subscriber starts from: threads, open turns and items with text, approvals."""

from collections import defaultdict

import msgspec

from supervisor.agents.state import AgentMemory, OpenItem
from supervisor.ids import Cursor
from supervisor.ports.store import ServerRequestRow, ThreadRow, TurnRow


def snapshot_payload(
    memory: AgentMemory, cursor: Cursor, agent: dict[str, object], thread_id: str | None
) -> bytes:
    """One JSON object of `type` `snapshot`, as of `cursor`; of one thread, or of all."""
    turns = {turn.thread_id: turn for turn in memory.turns.values()}
    items: dict[str, list[dict[str, object]]] = defaultdict(list)
    for (thread, _), item in memory.items.items():
        if thread_id in (None, thread):
            items[thread].append(_item(item))
    threads = [
        _thread(row, turns.get(row.thread_id), items.get(row.thread_id, []))
        for row in memory.threads.values()
        if thread_id is None or row.thread_id == thread_id
    ]
    approvals = [
        approval_view(row) for row in memory.waiting() if thread_id in (None, row.thread_id)
    ]
    return msgspec.json.encode(
        {
            "type": "snapshot",
            "cursor": str(cursor),
            "agent": agent,
            "threads": threads,
            "approvals": approvals,
        }
    )


def _thread(
    row: ThreadRow, turn: TurnRow | None, open_items: list[dict[str, object]]
) -> dict[str, object]:
    return {
        "threadId": row.thread_id,
        "name": row.name,
        "status": row.status,
        "cwd": row.cwd,
        "turn": None if turn is None else {"turnId": turn.turn_id, "status": "inProgress"},
        "openItems": open_items,
    }


def _item(item: OpenItem) -> dict[str, object]:
    return {
        "itemId": item.row.item_id,
        "turnId": item.row.turn_id,
        "type": item.row.kind,
        "item": msgspec.Raw(item.row.body),
        "text": item.text,
        "truncated": item.truncated,
    }


def approval_view(row: ServerRequestRow) -> dict[str, object]:
    """A waiting server request as clients see it."""
    return {
        "approvalId": row.approval_id,
        "method": row.method,
        "threadId": row.thread_id,
        "turnId": row.turn_id,
        "itemId": row.item_id,
        "params": msgspec.Raw(row.params),
        "askedAt": row.asked_at,
        "state": row.state,
    }
