"""The fold from spooled lines to rows: what a line of the app-server means for the store.

Pure but for the memory it owns: no I/O, no clock (`at` is set by the caller before each chunk).
Deterministic, because lines past the checkpoint are folded again after a crash.
"""

from collections.abc import Callable

import msgspec

from supervisor.agents import claims
from supervisor.agents.effects import Answer, Asked, Effect, Excess, TurnEnded, Unknown
from supervisor.agents.intents import asker, outcome_of
from supervisor.agents.state import AgentMemory
from supervisor.audit import record, reported
from supervisor.audit.chain import Chain
from supervisor.audit.record import Draft
from supervisor.errors import SupervisorError
from supervisor.ids import Generation, ProjectId
from supervisor.lifecycle import approval
from supervisor.lifecycle import turn as turn_lifecycle
from supervisor.lifecycle.approval import ApprovalEvent, ApprovalState
from supervisor.lifecycle.turn import TurnEvent, TurnState
from supervisor.policy.access import Principal
from supervisor.ports.store import (
    Batch,
    IntentRow,
    ItemRow,
    ServerRequestRow,
    ThreadRow,
    TurnRow,
)
from supervisor.protocol import items, jsonrpc, methods
from supervisor.protocol.jsonrpc import Kind, Parsed

_TURN_ENDS = {"completed": TurnEvent.COMPLETED, "interrupted": TurnEvent.INTERRUPTED}
_THREAD_STATES = {"active": "active", "idle": "idle", "notLoaded": "not_loaded"}


class Projection:
    """Owned by one ledger, which takes `batch` for each commit."""

    def __init__(self, project: ProjectId, memory: AgentMemory, chain: Chain) -> None:
        self.project = project
        self.memory = memory
        self.chain = chain
        self.generation = Generation(0)
        self.at = 0.0
        """POSIX seconds of the chunk being folded."""
        self.batch = Batch(project=project)
        self.pending_bytes = 0
        """Bytes of items and server requests in `batch`, or that were in it."""
        self._handlers: dict[str, Callable[[int, bytes, Parsed], Effect | None]] = {
            "thread/started": self._thread_started,
            "thread/status/changed": self._thread_status,
            "thread/name/updated": self._thread_name,
            "thread/archived": self._thread_archived,
            "thread/unarchived": self._thread_unloaded,
            "thread/closed": self._thread_unloaded,
            "turn/started": self._turn_started,
            "turn/completed": self._turn_completed,
            "item/started": self._item_started,
            "item/completed": self._item_completed,
            "serverRequest/resolved": self._resolved,
        }

    def line(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        """Fold one line in. Never raises for what the line says: its claims are read leniently."""
        if parsed.delta is not None:
            self.delta(parsed)
            return None
        kind = parsed.kind
        try:
            if kind is Kind.NOTIFICATION:
                return self._notification(n, line, parsed)
            if kind is Kind.RESPONSE or kind is Kind.ERROR:
                return self._answered(n, line, parsed)
            if kind is Kind.REQUEST:
                return self._asked(n, line, parsed)
        except (msgspec.MsgspecError, SupervisorError):
            # The envelope is valid, the params are not what the schema says. The line is shown
            # and spooled as it is; there is nothing in it to account.
            return Unknown(parsed.method or "")
        return None

    def delta(self, parsed: Parsed) -> None:
        """Text of an open item."""
        item = self.memory.items.get((parsed.thread_id or "", parsed.item_id or ""))
        if item is not None and parsed.delta is not None:
            item.add(parsed.delta)

    def _notification(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        method = parsed.method or ""
        handler = self._handlers.get(method)
        if handler is not None:
            return handler(n, line, parsed)
        return None if method in methods.NOTIFICATIONS else Unknown(method)

    # -- threads

    def _put_thread(self, row: ThreadRow) -> None:
        self.memory.threads[row.thread_id] = row
        self.batch.threads[row.thread_id] = row

    def _thread_started(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        thread = msgspec.json.decode(jsonrpc.params_of(line), type=claims.ThreadParams).thread
        if thread.id in self.memory.threads:
            return None
        if not thread.bounded or len(self.memory.threads) >= claims.THREADS_LIMIT:
            return Excess("thread")
        row = ThreadRow(
            project=self.project,
            thread_id=thread.id,
            account=self.memory.owner(None).account,
            status="idle",
            cwd=thread.cwd,
            name=thread.named,
            settings=b"{}",
            has_turns=False,
            created_at=self.at,
            updated_at=self.at,
        )
        self._put_thread(row)
        return None

    def _change_thread(self, thread_id: str | None, **changes: object) -> None:
        row = self.memory.threads.get(thread_id or "")
        if row is not None and any(getattr(row, k) != v for k, v in changes.items()):
            self._put_thread(msgspec.structs.replace(row, updated_at=self.at, **changes))

    def set_thread_status(self, thread_id: str, status: str) -> None:
        """What an answer of the app-server says of a thread, beside its notifications."""
        self._change_thread(thread_id, status=status)

    def _thread_status(self, n: int, line: bytes, parsed: Parsed) -> None:
        status = msgspec.json.decode(jsonrpc.params_of(line), type=claims.StatusParams).status.type
        if status in _THREAD_STATES:
            self._change_thread(parsed.thread_id, status=_THREAD_STATES[status])

    def _thread_name(self, n: int, line: bytes, parsed: Parsed) -> None:
        params = msgspec.json.decode(jsonrpc.params_of(line), type=claims.NameParams)
        self._change_thread(parsed.thread_id, name=claims.cut(params.threadName))

    def _thread_archived(self, n: int, line: bytes, parsed: Parsed) -> None:
        self._change_thread(parsed.thread_id, status="archived")

    def _thread_unloaded(self, n: int, line: bytes, parsed: Parsed) -> None:
        self._change_thread(parsed.thread_id, status="not_loaded")

    # -- turns

    def _put_turn(self, row: TurnRow) -> None:
        one = Batch(project=self.project, turns={(row.thread_id, row.turn_id): row})
        self.memory.absorb(one)
        self.batch.turns.update(one.turns)

    def _turn_started(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        thread_id, turn_id = parsed.thread_id or "", parsed.turn_id or ""
        open_turns = self.memory.turns
        if (thread_id, turn_id) in open_turns:
            return None
        if not claims.short(thread_id, turn_id) or len(open_turns) >= claims.TURNS_LIMIT:
            return Excess("turn")
        self.start_turn(n, thread_id, turn_id, None)
        return None

    def start_turn(self, n: int, thread_id: str, turn_id: str, request_id: str | None) -> None:
        """A turn runs: by our request's answer, or by its own word."""
        known = self.memory.turns.get((thread_id, turn_id))
        if known is not None and known.request_id is not None:
            return
        self._change_thread(thread_id, status="active", has_turns=True)
        self._put_turn(
            TurnRow(
                project=self.project,
                thread_id=thread_id,
                turn_id=turn_id,
                state=TurnState.IN_PROGRESS.value,
                generation=self.generation,
                request_id=request_id,
                error=None,
                started_n=known.started_n if known else n,
                ended_n=None,
                started_at=known.started_at if known else self.at,
                ended_at=None,
            )
        )

    def _turn_completed(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        turn = msgspec.json.decode(jsonrpc.params_of(line), type=claims.TurnParams).turn
        row = self.memory.turns.get((parsed.thread_id or "", turn.id))
        if row is None:
            return None
        ended = msgspec.structs.replace(
            row,
            state=turn_lifecycle.next_state(
                TurnState(row.state), _TURN_ENDS.get(turn.status, TurnEvent.FAILED)
            ).value,
            error=None if bytes(turn.error) == b"null" else bytes(turn.error),
            ended_n=n,
            ended_at=self.at,
        )
        self._put_turn(ended)
        self._abandon_items(n, ended)
        self.audit(n, record.turn_ended(self._who(ended.turn_id), ended.state), parsed)
        return TurnEnded(ended)

    def _abandon_items(self, n: int, turn: TurnRow) -> None:
        """Items the turn left open. A background command of a turn that completed goes on."""
        for (thread_id, _), item in list(self.memory.items.items()):
            if thread_id != turn.thread_id or item.row.turn_id != turn.turn_id:
                continue
            if turn.state == "completed" and item.row.kind == "commandExecution":
                continue
            row = msgspec.structs.replace(item.row, state="abandoned", completed_n=n)
            self._put_item(row)
            for draft in reported.cut_off_drafts(self._who(row.turn_id), row):
                self.audit(n, draft)

    # -- items

    def _put_item(self, row: ItemRow) -> None:
        one = Batch(project=self.project, items={(row.thread_id, row.turn_id, row.item_id): row})
        self.memory.absorb(one)
        self.batch.items.update(one.items)
        self.pending_bytes += len(row.body)

    def _item_started(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        item = items.item_of(line)
        if item is None:
            return None
        row = self._item_row(n, item, parsed, "open", None)
        self._audit_item(n, item, parsed, record.Phase.INTENT)
        if not self.memory.has_room_for_item(row):
            return Excess("item")
        self._put_item(row)
        return None

    def _item_completed(self, n: int, line: bytes, parsed: Parsed) -> None:
        item = items.item_of(line)
        if item is None:
            return
        known = self.memory.items.get((parsed.thread_id or "", item.id))
        started_n = known.row.started_n if known else n
        self._put_item(self._item_row(started_n, item, parsed, "completed", n))
        self._audit_item(n, item, parsed, record.Phase.OUTCOME)

    def _audit_item(self, n: int, item: items.Item, parsed: Parsed, phase: record.Phase) -> None:
        for draft in reported.item_drafts(self._who(parsed.turn_id), item, phase):
            self.audit(n, draft, parsed)

    def _item_row(
        self, n: int, item: items.Item, parsed: Parsed, state: str, completed_n: int | None
    ) -> ItemRow:
        return ItemRow(
            project=self.project,
            thread_id=parsed.thread_id or "",
            turn_id=parsed.turn_id or "",
            item_id=item.id,
            kind=item.kind,
            state=state,
            body=bytes(item.body),
            started_n=n,
            completed_n=completed_n,
        )

    # -- requests, both ways

    def _answered(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        request_id = _text_id(parsed.id)
        if request_id is None:
            return Answer("", parsed, line)  # no id of ours: nobody waits for it
        intent = self.memory.intents.get(request_id)
        if intent is not None:
            self._settle(n, line, intent, failed=parsed.kind is Kind.ERROR)
        return Answer(request_id, parsed, line)

    def _settle(self, n: int, line: bytes, intent: IntentRow, *, failed: bool) -> None:
        known = self.memory.threads.get(intent.thread_id or "")
        outcome = outcome_of(intent, line, failed=failed, at=self.at, known=known)
        row = outcome.intent
        self.put_intent(row)
        if outcome.thread is not None:
            self._put_thread(outcome.thread)
        if outcome.starts_turn:
            self.memory.remember_owner(row.turn_id or "", asker(row))
            self.start_turn(n, row.thread_id or "", row.turn_id or "", row.request_id)
        self.audit(n, record.intent_settled(asker(row), row))

    def put_intent(self, row: IntentRow) -> None:
        """Write an intent's row, and remember it while it is pending."""
        one = Batch(project=self.project, intents={row.request_id: row})
        self.memory.absorb(one)
        self.batch.intents.update(one.intents)

    def _asked(self, n: int, line: bytes, parsed: Parsed) -> Effect | None:
        method, id_raw = parsed.method or "", parsed.id or b"null"
        known = methods.SERVER_REQUESTS.get(method)
        policy = known.policy.value if known else "refuse"
        refusal = "unsupported" if known else "unknown"
        waiting = policy in {"ask", "tool"}
        if not waiting:
            return Asked(id_raw, method, policy, waiting, refusal)
        row = ServerRequestRow(
            project=self.project,
            approval_id=approval_id(self.generation, id_raw),
            generation=self.generation,
            request_id=id_raw,
            method=method,
            thread_id=parsed.thread_id,
            turn_id=parsed.turn_id,
            item_id=parsed.item_id,
            params=bytes(jsonrpc.params_of(line)),
            state=ApprovalState.WAITING.value,
            asked_n=n,
            asked_at=self.at,
        )
        if row.approval_id in self.memory.requests:
            return None  # re-sent by thread/resume: the same request, asked once
        if not self.memory.has_room_for_request(row):
            return Asked(id_raw, method, "refuse", False, "overloaded")
        self.put_request(row)
        self.audit(n, record.approval_asked(self._who(row.turn_id), row))
        return Asked(id_raw, method, policy, waiting, refusal)

    def put_request(self, row: ServerRequestRow) -> None:
        """Write a server request's row, and remember it while it is open."""
        one = Batch(project=self.project, server_requests={row.approval_id: row})
        self.memory.absorb(one)
        self.batch.server_requests.update(one.server_requests)
        self.pending_bytes += len(row.params)

    def _resolved(self, n: int, line: bytes, parsed: Parsed) -> None:
        params = msgspec.json.decode(jsonrpc.params_of(line), type=claims.ResolvedParams)
        row = self.memory.requests.get(approval_id(self.generation, bytes(params.requestId)))
        if row is None:
            return
        state = approval.next_state(ApprovalState(row.state), ApprovalEvent.RESOLVED).value
        self.put_request(msgspec.structs.replace(row, state=state, settled_at=self.at))
        self.audit(n, record.approval_settled(self._who(row.turn_id), row, state))

    # -- audit

    def _who(self, turn_id: str | None) -> Principal:
        return self.memory.owner(turn_id)

    def audit(self, n: int, draft: Draft, parsed: Parsed | None = None) -> None:
        """Chain one record: of the generation that runs, following from event `n`."""
        if parsed is not None:
            draft = msgspec.structs.replace(
                draft, thread_id=parsed.thread_id, turn_id=parsed.turn_id
            )
        draft = msgspec.structs.replace(draft, n=n, generation=self.generation)
        self.batch.audit.append(self.chain.append(draft, self.at))


def approval_id(generation: Generation, id_raw: bytes) -> str:
    """`<generation>-<upstream id>`: upstream ids start at 0 in each process."""
    return f"{generation}-{id_raw.decode(errors='replace')}"


def _text_id(id_raw: bytes | None) -> str | None:
    if id_raw is None:
        return None
    try:
        return msgspec.json.decode(id_raw, type=str)
    except msgspec.MsgspecError:
        return None
