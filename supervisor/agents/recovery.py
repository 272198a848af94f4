"""After adoption or a restart: threads resumed, requests in doubt settled (DESIGN.md D10)."""

import asyncio
from pathlib import Path

import msgspec

from supervisor.agents.ending import turn_completed
from supervisor.agents.intents import asker
from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.places import thread_params
from supervisor.agents.shared import Shared
from supervisor.agents.starting import PING
from supervisor.agents.upstream import Upstream
from supervisor.audit import record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.lifecycle.reconcile import Doubt, Fail, Search, SendAgain, Settle, reconcile
from supervisor.logs import get_logger
from supervisor.policy.places import ProjectPaths
from supervisor.ports.store import Batch, IntentRow, ServerRequestRow, ThreadRow, TurnRow
from supervisor.protocol.encoding import response

SEARCHES = 2
"""How often a message must be missing before it is sent again: its turn may be on its way from the
queue to the thread while the first search runs."""
SEARCH_PAUSE_SECONDS = 1.0
RESUMES_AT_ONCE = 4
THREAD_LOST = "supervisor/threadLost"
THREAD_RESUMED = "supervisor/threadResumed"


log = get_logger()


class Recovery:
    """One agent's, for one generation, before it is ready."""

    def __init__(
        self,
        shared: Shared,
        ledger: Ledger,
        upstream: Upstream,
        paths: ProjectPaths,
        *,
        trusted: bool,
        same_generation: bool,
    ) -> None:
        self._shared = shared
        self._ledger = ledger
        self._memory = ledger.projection.memory
        self._upstream = upstream
        self._paths = paths
        self._trusted = trusted
        self._same_generation = same_generation
        self._timeout = shared.settings.request_timeout_seconds

    async def run(self, in_use: list[ThreadRow]) -> None:
        """Everything that must be settled before anybody is served."""
        if self._same_generation:
            await self._answer_again()
        else:
            await self._resume(in_use)
        for intent in list(self._memory.intents.values()):
            await self._settle(intent)

    # -- answers committed and perhaps never written

    async def _answer_again(self) -> None:
        for row in list(self._memory.requests.values()):
            if row.state == "answered":
                await write_answer(self._upstream, row)

    # -- threads

    async def _resume(self, in_use: list[ThreadRow]) -> None:
        gate = asyncio.Semaphore(RESUMES_AT_ONCE)

        async def one(row: ThreadRow) -> None:
            async with gate:
                try:
                    await self.resume_thread(row)
                except SupervisorError as e:
                    # The app-server is gone again: the next generation resumes them.
                    log.info("thread_not_resumed", thread=row.thread_id, code=e.code.value)

        async with asyncio.TaskGroup() as tasks:
            for row in in_use:
                tasks.create_task(one(row))

    async def resume_thread(self, row: ThreadRow) -> None:
        """Load a thread again, with what it was started with; say what became of it."""
        if not row.has_turns:
            await self._tell_thread(row, "lost", "a thread without a turn is not kept by Codex")
            return
        try:
            params = resume_params(
                row,
                self._paths,
                trusted=self._trusted,
                forbidden=self._shared.forbidden_sandboxes,
            )
            await self._upstream.ask("thread/resume", params, timeout=self._timeout, own=True)
        except SupervisorError as e:
            if e.code is ErrorCode.AGENT_RESTARTED:
                raise
            await self._tell_thread(row, "not_loaded", e.message)
        else:
            await self._tell_thread(row, "idle", None)

    async def _tell_thread(self, row: ThreadRow, status: str, why: str | None) -> None:
        params: dict[str, object] = {"threadId": row.thread_id}
        if why is not None:
            params["reason"] = why

        def change(n: int, at: float) -> Change:
            known = self._memory.threads.get(row.thread_id, row)
            now = msgspec.structs.replace(known, status=status, updated_at=at)
            method = THREAD_RESUMED if status == "idle" else THREAD_LOST
            return Change(
                events=[own_event(method, params, row.thread_id)],
                rows=Batch(project=self._ledger.project, threads={row.thread_id: now}),
            )

        await self._ledger.barrier(change, patient=True)

    # -- intents without outcome

    async def _settle(self, intent: IntentRow) -> None:
        found: str | None = None
        searched = 0
        while intent.request_id in self._memory.intents:
            doubt = Doubt(
                method=intent.method,
                answered_in_spool=False,
                same_generation=self._same_generation,
                found_in_thread=None if searched == 0 else found is not None,
            )
            decision = reconcile(doubt)
            if isinstance(decision, Search) or (
                isinstance(decision, SendAgain) and 0 < searched < SEARCHES
            ):
                if searched:
                    await self._shared.clock.sleep(SEARCH_PAUSE_SECONDS)
                found = await self._search(intent)
                searched += 1
            elif isinstance(decision, SendAgain):
                await self._send_again(intent)
            elif isinstance(decision, Settle):
                await self._settle_found(intent, found or "")
            elif isinstance(decision, Fail):
                await self._fail(intent, decision.code)

    async def after_timeout(self, intent: IntentRow) -> None:
        """Settle a request whose answer did not come in time, if its thread shows that it arrived.

        If it does not, nothing is proved: it stays pending, and its answer or the recovery of the
        next generation settles it. Failed now, it would be sent again, and run twice.
        """
        for _ in range(SEARCHES):
            try:
                turn_id = await self._search(intent)
            except SupervisorError as e:
                if not e.retryable or self._upstream.closed:
                    return
                turn_id = None
            if intent.request_id not in self._memory.intents:
                return
            if turn_id is not None:
                await self._settle_found(intent, turn_id)
                return
            await self._shared.clock.sleep(SEARCH_PAUSE_SECONDS)

    async def _search(self, intent: IntentRow) -> str | None:
        """The turn that carries the intent's message id. Behind a ping: all that was answered
        before is in the spool by then."""
        await self._upstream.ask(PING, {}, timeout=self._timeout, own=True)
        if intent.request_id not in self._memory.intents or intent.thread_id is None:
            return None
        try:
            read = await self._upstream.ask(
                "thread/read",
                {"threadId": intent.thread_id, "includeTurns": True},
                timeout=self._timeout,
                own=True,
            )
        except SupervisorError as e:
            if e.code is ErrorCode.CODEX_REFUSED:
                return None  # a thread without a turn cannot be read with turns: it is not there
            raise
        return turn_with(read, intent.request_id)

    async def _send_again(self, intent: IntentRow) -> None:
        params = msgspec.json.decode(intent.params)
        try:
            await self._upstream.ask(
                intent.method,
                params,
                timeout=self._timeout,
                request_id=intent.request_id,
                own=True,
            )
        except SupervisorError as e:
            if e.code is not ErrorCode.CODEX_REFUSED:
                await self._fail(intent, e.code)

    async def _settle_found(self, intent: IntentRow, turn_id: str) -> None:
        """It arrived, and its answer is lost with the app-server that gave it."""
        memory = self._memory
        memory.remember_owner(turn_id, asker(intent))

        def change(n: int, at: float) -> Change:
            done = msgspec.structs.replace(
                intent,
                state="done",
                turn_id=turn_id,
                outcome=msgspec.json.encode({"turn": {"id": turn_id}, "turnId": turn_id}),
                settled_at=at,
            )
            change = Change(
                rows=Batch(project=intent.project, intents={intent.request_id: done}),
                drafts=[record.intent_settled(asker(intent), done)],
            )
            if intent.method == "turn/start" and not self._same_generation:
                turn = _interrupted(done, self._ledger, n, at)
                assert change.rows is not None
                change.rows.turns[turn.thread_id, turn.turn_id] = turn
                change.events.append(turn_completed(turn))
            return change

        await self._ledger.barrier(change, patient=True)

    async def _fail(self, intent: IntentRow, code: ErrorCode) -> None:
        error = SupervisorError(code, "the request was lost with the app-server it was meant for")
        await fail_intent(self._ledger, intent, error)


async def fail_intent(ledger: Ledger, intent: IntentRow, error: SupervisorError) -> None:
    """Settle an intent as failed, and tell; nothing if it is settled already."""

    def change(n: int, at: float) -> Change:
        if intent.request_id not in ledger.projection.memory.intents:
            return Change()
        failed = msgspec.structs.replace(
            intent,
            state="failed",
            outcome=msgspec.json.encode({"supervisor": error.as_dict()}),
            settled_at=at,
        )
        params: dict[str, object] = {
            "requestId": intent.request_id,
            "method": intent.method,
            "threadId": intent.thread_id,
            "error": error.as_dict(),
        }
        return Change(
            events=[own_event("supervisor/requestFailed", params, intent.thread_id)],
            rows=Batch(project=intent.project, intents={intent.request_id: failed}),
            drafts=[record.intent_settled(asker(intent), failed)],
        )

    await ledger.barrier(change, patient=True)


async def write_answer(upstream: Upstream, row: ServerRequestRow) -> None:
    """Write a committed answer. Codex ignores one it has had."""
    assert row.answer is not None
    await upstream.write(response(row.request_id, msgspec.Raw(row.answer)))


def resume_params(
    row: ThreadRow,
    paths: ProjectPaths,
    *,
    trusted: bool,
    forbidden: frozenset[str] = frozenset(),
) -> dict[str, object]:
    """thread/resume with the settings the thread was started with, and the trust chain; without a
    sandbox that is `forbidden` by now."""
    settings = msgspec.json.decode(row.settings, type=dict[str, object])
    config = settings.get("config")
    if isinstance(config, dict):
        config.pop("projects", None)
    if settings.get("sandbox") in forbidden:
        del settings["sandbox"]
    settings.setdefault("cwd", row.cwd or str(paths.inside))
    cwd = Path(str(settings["cwd"]))
    if not (cwd.is_relative_to(paths.host) or cwd.is_relative_to(paths.inside)):
        settings["cwd"] = str(paths.inside)  # of a time when it was mounted elsewhere
    params = thread_params(settings, paths, trusted)
    return {**params, "threadId": row.thread_id, "excludeTurns": True}


class _Item(msgspec.Struct):
    clientId: str | None = None  # noqa: N815  the wire's own name


class _Turn(msgspec.Struct):
    id: str = ""
    items: list[_Item] = []


class _Thread(msgspec.Struct):
    turns: list[_Turn] = []


class _Read(msgspec.Struct):
    thread: _Thread


def turn_with(read: msgspec.Raw, client_id: str) -> str | None:
    """The id of the turn in a thread/read result whose message carries `client_id`."""
    try:
        turns = msgspec.json.decode(read, type=_Read).thread.turns
    except msgspec.MsgspecError:
        return None
    return next((t.id for t in turns if any(i.clientId == client_id for i in t.items)), None)


def _interrupted(intent: IntentRow, ledger: Ledger, n: int, at: float) -> TurnRow:
    return TurnRow(
        project=intent.project,
        thread_id=intent.thread_id or "",
        turn_id=intent.turn_id or "",
        state="interrupted",
        generation=ledger.log.generation,
        request_id=intent.request_id,
        error=None,
        started_n=n,
        ended_n=n,
        started_at=intent.created_at,
        ended_at=at,
    )
