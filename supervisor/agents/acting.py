"""Requests that act and answers to server requests: committed first, written after (D10, D12)."""

import asyncio
from collections.abc import Callable

import msgspec

from supervisor.agents.carrier import Carrier
from supervisor.agents.intents import ACTS, intent_row, params_hash
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.log import OwnEvent
from supervisor.agents.places import thread_params
from supervisor.agents.recovery import Recovery, fail_intent, resume_params, write_answer
from supervisor.agents.shared import Shared
from supervisor.agents.upstream import UnwrittenError, Upstream
from supervisor.audit import record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.lifecycle import approval
from supervisor.lifecycle.approval import ApprovalEvent, ApprovalState
from supervisor.lifecycle.table import IllegalTransition
from supervisor.policy.access import Principal
from supervisor.policy.places import ProjectPaths
from supervisor.ports.agent import Acted
from supervisor.ports.store import Batch, IntentRow, ServerRequestRow, ThreadRow
from supervisor.protocol import answers
from supervisor.protocol.encoding import encode_value

REPLAY_POLL_SECONDS = 0.05
TURN_SUBMITTED = "supervisor/turnSubmitted"
APPROVAL_ANSWERED = "supervisor/approvalAnswered"
_STARTS_THREAD = {"thread/start", "thread/resume"}


class Acting:
    """One agent's. Its coroutines must be carried to their end: see `Agent`."""

    def __init__(
        self,
        shared: Shared,
        ledger: Ledger,
        paths: ProjectPaths,
        *,
        carrier: Carrier,
        trusted: Callable[[], bool],
        upstream: Callable[[], Upstream],
    ) -> None:
        self._shared = shared
        self._ledger = ledger
        self._memory = ledger.projection.memory
        self._paths = paths
        self._carrier = carrier
        self._trusted = trusted
        self._upstream = upstream
        self._order = asyncio.Lock()
        """From the look at what is known to the commit: one at a time."""

    # -- requests that act

    async def act(
        self, principal: Principal, method: str, params: dict[str, object], key: str | None
    ) -> Acted:
        """See `ports.agent.Agent.act`."""
        if method not in ACTS:
            raise SupervisorError(ErrorCode.METHOD_UNKNOWN, f"{method} is not carried out here")
        encode_value(params)  # what could not be written must not be committed
        # Taken before the commit: if this app-server ends meanwhile, nothing is written to the next
        # one behind the back of its recovery.
        upstream = self._upstream()
        known = await self._used(principal, key)
        if known is None:
            await self._load(method, params)
        async with self._order:
            known = await self._used(principal, key)
            if known is None:
                sent = await self._prepared(method, params)
                intent = await self._commit(principal, method, params, sent, key)
        if known is not None:
            return await self._replay(known, params_hash(method, params))
        return await self._write(upstream, intent)

    async def _used(self, principal: Principal, key: str | None) -> IntentRow | None:
        if key is None:
            return None
        return await self._shared.store.intent_by_key(self._ledger.project, principal.account, key)

    async def _prepared(self, method: str, params: dict[str, object]) -> dict[str, object]:
        """The params as they go upstream, or the refusal."""
        if method == "thread/start":
            return thread_params(params, self._paths, self._trusted())
        if method == "thread/resume" and params.get("threadId") not in self._memory.threads:
            # A thread of this directory that another program started: the RPC has looked.
            return thread_params(params, self._paths, self._trusted())
        thread = self._thread(params)
        if method == "thread/resume":
            return self._resumed(thread)
        if method == "turn/start" and self._memory.is_busy(thread.thread_id):
            raise SupervisorError(ErrorCode.TURN_ACTIVE, "a turn runs on this thread")
        return params

    def _resumed(self, thread: ThreadRow) -> dict[str, object]:
        forbidden = self._shared.forbidden_sandboxes
        return resume_params(thread, self._paths, trusted=self._trusted(), forbidden=forbidden)

    def _thread(self, params: dict[str, object]) -> ThreadRow:
        thread = self._memory.threads.get(str(params.get("threadId")))
        if thread is None:
            raise SupervisorError(ErrorCode.THREAD_UNKNOWN, "the project has no such thread")
        if thread.status == "lost":
            raise SupervisorError(
                ErrorCode.THREAD_LOST, "Codex keeps no thread without a turn over a restart"
            )
        return thread

    async def _load(self, method: str, params: dict[str, object]) -> None:
        """Have the thread of a turn loaded. Outside of the order: a long thread takes its time."""
        if not method.startswith("turn/"):
            return
        thread = self._thread(params)
        if thread.status != "not_loaded":
            return
        resumed = self._resumed(thread)
        timeout = self._shared.settings.request_timeout_seconds
        await self._upstream().ask("thread/resume", resumed, timeout=timeout)
        self._ledger.projection.set_thread_status(thread.thread_id, "idle")

    async def _commit(
        self,
        principal: Principal,
        method: str,
        meant: dict[str, object],
        sent: dict[str, object],
        key: str | None,
    ) -> IntentRow:
        request_id = self._shared.request_ids.next()
        rows: list[IntentRow] = []

        def change(n: int, at: float) -> Change:
            row = intent_row(
                self._ledger.project,
                request_id,
                method,
                sent,
                principal,
                meant=meant,
                idempotency_key=key,
                n=n,
                at=at,
            )
            rows[:] = [row]
            return Change(
                events=[_submitted(row)] if method.startswith("turn/") else [],
                rows=Batch(project=row.project, intents={row.request_id: row}),
                drafts=[record.intent_made(principal, row)],
            )

        await self._ledger.barrier(change)
        return rows[0]

    async def _write(self, upstream: Upstream, intent: IntentRow) -> Acted:
        timeout = self._shared.settings.request_timeout_seconds
        params = msgspec.Raw(intent.params)
        try:
            result = await upstream.ask(
                intent.method, params, timeout=timeout, request_id=intent.request_id
            )
        except SupervisorError as e:
            # Provably not done, and its key is free for another try. Otherwise the answer, or the
            # recovery of the next generation, settles it.
            if isinstance(e, UnwrittenError) or e.code is ErrorCode.OVERLOADED:
                undone = msgspec.structs.replace(intent, idempotency_key=None)
                await fail_intent(self._ledger, undone, e)
            elif e.code is ErrorCode.CODEX_TIMEOUT:
                self._carrier.begin(self._recovery(upstream).after_timeout(intent))
            raise
        return Acted(request_id=intent.request_id, result=result, replayed=False)

    def _recovery(self, upstream: Upstream) -> Recovery:
        return Recovery(
            self._shared,
            self._ledger,
            upstream,
            self._paths,
            trusted=self._trusted(),
            same_generation=True,
        )

    async def _replay(self, row: IntentRow, meant: str) -> Acted:
        """What the key was used for, once it is settled."""
        if row.params_hash != meant:
            raise SupervisorError(
                ErrorCode.IDEMPOTENCY_MISMATCH, "this key was used for another request"
            )
        try:
            async with asyncio.timeout(self._shared.settings.request_timeout_seconds):
                row = await self._settled(row)
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.CODEX_TIMEOUT, "the request with this key is not settled yet"
            ) from None
        if row.state == "failed":
            raise _stored_error(row.outcome or b"{}")
        return Acted(
            request_id=row.request_id, result=msgspec.Raw(row.outcome or b"null"), replayed=True
        )

    async def _settled(self, row: IntentRow) -> IntentRow:
        while row.state == "pending":
            if row.request_id not in self._memory.intents:
                await self._ledger.flush()
            await self._shared.clock.sleep(REPLAY_POLL_SECONDS)
            found = await self._shared.store.intent_by_key(
                row.project, row.account, row.idempotency_key or ""
            )
            row = found or row
        return row

    # -- answers to server requests

    async def answer(self, principal: Principal, approval_id: str, result: object) -> None:
        """See `ports.agent.Agent.answer`. The first committed answer wins."""
        known = self._memory.requests.get(approval_id)
        if known is None:
            raise self._gone(approval_id)
        _answered_state(known)
        raw = encode_value(answers.check_answer(known.method, result))
        answered: list[ServerRequestRow] = []

        def change(n: int, at: float) -> Change:
            row = self._memory.requests.get(approval_id)
            if row is None:
                raise self._gone(approval_id)
            state = _answered_state(row)
            # Not settled: a successor has to write it again until the app-server confirms it.
            row = msgspec.structs.replace(
                row, state=state, answer=raw, answered_by=principal.principal
            )
            answered[:] = [row]
            return Change(
                events=[_answered(row, principal)],
                rows=Batch(project=row.project, server_requests={approval_id: row}),
                drafts=[record.approval_answered(principal, row)],
            )

        await self._ledger.barrier(change)
        self._shared.metrics.approvals.labels(_outcome(raw)).inc()
        await write_answer(self._upstream(), answered[0])

    def _gone(self, approval_id: str) -> SupervisorError:
        generation, _, number = approval_id.partition("-")
        current = self._ledger.projection.generation
        if generation.isdigit() and int(generation) <= current and number:
            return SupervisorError(ErrorCode.APPROVAL_SETTLED, "nobody waits for this any more")
        return SupervisorError(ErrorCode.APPROVAL_UNKNOWN, "there is no such approval")


def _answered_state(row: ServerRequestRow) -> str:
    """The first answer wins: `approval_settled` for any other."""
    try:
        return approval.next_state(ApprovalState(row.state), ApprovalEvent.ANSWER).value
    except IllegalTransition:
        raise SupervisorError(ErrorCode.APPROVAL_SETTLED, "it has been answered") from None


class _Decision(msgspec.Struct):
    decision: object = None
    action: object = None


def _decision(raw: bytes) -> str:
    """The word of an answer, for people; `answered` where it has none."""
    said = msgspec.json.decode(raw, type=_Decision)
    word = said.decision or said.action
    if isinstance(word, dict):
        word = next(iter(word), None)
    return word if isinstance(word, str) else "answered"


def _outcome(raw: bytes) -> str:
    word = _decision(raw).lower()
    for prefix, outcome in (
        ("accept", "accepted"),
        ("approved", "accepted"),
        ("decline", "declined"),
        ("denied", "declined"),
        ("cancel", "cancelled"),
        ("abort", "cancelled"),
    ):
        if word.startswith(prefix):
            return outcome
    return "answered"


def _submitted(row: IntentRow) -> OwnEvent:
    params: dict[str, object] = {
        "requestId": row.request_id,
        "method": row.method,
        "threadId": row.thread_id,
        "turnId": row.turn_id,
        "account": row.account,
        "principal": row.principal,
    }
    return own_event(TURN_SUBMITTED, params, row.thread_id)


def _answered(row: ServerRequestRow, principal: Principal) -> OwnEvent:
    params: dict[str, object] = {
        "approvalId": row.approval_id,
        "method": row.method,
        "threadId": row.thread_id,
        "turnId": row.turn_id,
        "answer": msgspec.Raw(row.answer or b"null"),
        "account": principal.account,
        "principal": principal.principal,
    }
    return own_event(APPROVAL_ANSWERED, params, row.thread_id)


class _Stored(msgspec.Struct):
    supervisor: dict[str, object] | None = None
    message: str = "the request failed"


def _stored_error(outcome: bytes) -> SupervisorError:
    """The error a failed intent was told, from its row."""
    stored = msgspec.json.decode(outcome, type=_Stored)
    if stored.supervisor is not None:
        code = ErrorCode(str(stored.supervisor.get("code", ErrorCode.INTERNAL)))
        return SupervisorError(
            code,
            str(stored.supervisor.get("message", stored.message)),
            hint="This key stands for the request that failed: try again with a new one.",
            retryable=False,
        )
    return SupervisorError(ErrorCode.CODEX_REFUSED, stored.message)
