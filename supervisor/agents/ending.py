"""What the end of an app-server means for everything that was open: one barrier's change (D10).

Pure. Codex says nothing of a turn it was killed in, so the supervisor does: the turn is reported
`interrupted` in Codex's own form, waiting requests are resolved, and the generation is closed.
"""

import msgspec

from supervisor.agents.ledger import Change, own_event
from supervisor.agents.log import OwnEvent
from supervisor.agents.state import AgentMemory
from supervisor.audit import record, reported
from supervisor.lifecycle import approval
from supervisor.lifecycle import turn as turn_lifecycle
from supervisor.lifecycle.approval import ApprovalEvent, ApprovalState
from supervisor.lifecycle.restart import ExitKind
from supervisor.lifecycle.turn import TurnEvent, TurnState
from supervisor.policy.access import SUPERVISOR
from supervisor.ports.store import Batch, GenerationRow, ServerRequestRow, TurnRow

AGENT_EXITED = "supervisor/agentExited"
DETAIL_LIMIT = 4000
"""Characters of an exit's detail that are kept."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """One generation's end."""

    generation: GenerationRow
    kind: ExitKind
    detail: str
    final_size: int


def ending(memory: AgentMemory, ended: Ended, n: int, at: float) -> Change:
    """Everything that ends with a generation. `n` is the first own event's number."""
    change = Change(rows=Batch(project=memory.project))
    assert change.rows is not None
    for request in list(memory.requests.values()):
        _abandon(change, memory, request, at)
    for turn in list(memory.turns.values()):
        _interrupt(change, memory, turn, n, at)
    for item in memory.items.values():
        row = msgspec.structs.replace(item.row, state="abandoned", completed_n=n)
        change.rows.items[row.thread_id, row.turn_id, row.item_id] = row
        change.drafts += reported.cut_off_drafts(memory.owner(row.turn_id), row)
    for thread in memory.threads.values():
        if thread.status in {"idle", "active"}:
            status = "not_loaded" if thread.has_turns else "lost"
            change.rows.threads[thread.thread_id] = msgspec.structs.replace(
                thread, status=status, updated_at=at
            )
    _close(change, ended, at)
    return change


def _abandon(change: Change, memory: AgentMemory, row: ServerRequestRow, at: float) -> None:
    assert change.rows is not None
    state = approval.next_state(ApprovalState(row.state), ApprovalEvent.AGENT_ENDED).value
    settled = msgspec.structs.replace(row, state=state, settled_at=at)
    change.rows.server_requests[row.approval_id] = settled
    change.events.append(
        own_event(
            "serverRequest/resolved",
            {
                "threadId": row.thread_id,
                "requestId": msgspec.Raw(row.request_id),
                "synthesised": True,
            },
            row.thread_id,
        )
    )
    change.drafts.append(record.approval_settled(memory.owner(row.turn_id), row, state))


def _interrupt(change: Change, memory: AgentMemory, turn: TurnRow, n: int, at: float) -> None:
    assert change.rows is not None
    state = turn_lifecycle.next_state(TurnState(turn.state), TurnEvent.AGENT_ENDED).value
    ended = msgspec.structs.replace(turn, state=state, ended_n=n, ended_at=at)
    change.rows.turns[turn.thread_id, turn.turn_id] = ended
    change.events.append(turn_completed(ended))
    draft = record.turn_ended(memory.owner(turn.turn_id), state, synthesised=True)
    change.drafts.append(
        msgspec.structs.replace(draft, thread_id=turn.thread_id, turn_id=turn.turn_id)
    )


def turn_completed(turn: TurnRow) -> OwnEvent:
    """`turn/completed` as Codex would say it, marked as the supervisor's word."""
    params = {
        "threadId": turn.thread_id,
        "turn": {
            "id": turn.turn_id,
            "items": [],
            "itemsView": "notLoaded",
            "status": turn.state,
            "error": None,
            "startedAt": int(turn.started_at),
            "completedAt": None,
            "durationMs": None,
        },
        "synthesised": True,
    }
    return own_event("turn/completed", params, turn.thread_id)


def _close(change: Change, ended: Ended, at: float) -> None:
    assert change.rows is not None
    row = msgspec.structs.replace(
        ended.generation,
        state="ended",
        final_size=ended.final_size,
        exit_kind=ended.kind.value,
        exit_detail=ended.detail[:DETAIL_LIMIT],
        ended_at=at,
    )
    change.rows.generations[row.generation] = row
    params: dict[str, object] = {
        "generation": row.generation,
        "kind": row.exit_kind,
        "detail": row.exit_detail,
    }
    change.events.append(own_event(AGENT_EXITED, params))
    asked = ended.kind is ExitKind.ASKED
    change.drafts.append(record.agent_exited(SUPERVISOR, row, asked=asked))
