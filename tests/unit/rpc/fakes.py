"""Agents that do what a test tells them, and write down what they were asked."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable

import msgspec

from supervisor.audit.chain import GENESIS
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Cursor, Generation, ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.agent import Acted, Agent, Begun, ProjectStatus, Subscription
from supervisor.ports.runtime import Command, ExecLine
from supervisor.ports.store import AuditRow, ServerRequestRow
from supervisor.rpc.dispatch import Dispatcher
from supervisor.rpc.methods import HostFacts

ALICE = Principal(account="local", principal="alice", source="test", client="tests")
THREAD = "01a1f8df-ef22-74d1-a7d8-51fc27e4b679"


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class FakeClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> None:
        raise AssertionError("no test here needs the date")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


class CountingMeter:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str | None]] = Counter()
        self.errors: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.open: Counter[str] = Counter()

    def request(self, method: str, code: str | None, seconds: float) -> None:
        assert seconds >= 0
        self.requests[method, code] += 1

    def error_sent(self, code: str) -> None:
        self.errors[code] += 1

    def connection_opened(self, transport: str) -> None:
        self.open[transport] += 1

    def connection_closed(self, transport: str) -> None:
        self.open[transport] -= 1

    def refused(self, transport: str, reason: str) -> None:
        self.refusals[transport, reason] += 1


class FakeSubscription:
    """Payloads a test puts in; `endless` makes them up as fast as they are taken."""

    def __init__(self, payloads: list[bytes], *, endless: bool = False) -> None:
        self.closed = False
        self.taken = 0
        self._payloads = deque(payloads)
        self._endless = endless
        self._wake = asyncio.Event()

    def put(self, payload: bytes) -> None:
        self._payloads.append(payload)
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._all()

    async def _all(self) -> AsyncIterator[bytes]:
        while not self.closed:
            if self._endless:
                self.taken += 1
                yield b'{"type":"event","n":%d,"text":"%b"}' % (self.taken, b"x" * 1000)
            elif self._payloads:
                self.taken += 1
                yield self._payloads.popleft()
            else:
                self._wake.clear()
                await self._wake.wait()


class FakeAgent:
    """One agent. `answers` and `acts` map upstream methods to what Codex says."""

    def __init__(self, project: str, account: str = "local", path: str | None = None) -> None:
        self.project = ProjectId(project)
        self.account = account
        self.path = path or f"/projects/{project}"
        self.trusted = False
        self.state = "ready"
        self.thread_cwd = self.path
        self.asked: list[tuple[str, object]] = []
        self.acted: list[tuple[str, dict[str, object], str | None]] = []
        self.answered: list[tuple[str, object]] = []
        self.subscribed: list[tuple[str | None, Cursor | None]] = []
        self.begun: list[tuple[Principal, Command]] = []
        self.ended: list[tuple[str, int, int]] = []
        self.waited_ready = 0
        self.requests: list[ServerRequestRow] = []
        self.records: list[AuditRow] = []
        self.end = (1, GENESIS)
        self.subscriptions: list[FakeSubscription] = []
        self.make_subscription: Callable[[], FakeSubscription] = lambda: FakeSubscription([])
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        """Held back until it is set."""
        self.answers: dict[str, object] = {"thread/loaded/list": {"data": [], "nextCursor": None}}
        self.outcomes: dict[str, object] = {
            "turn/start": {"turn": {"id": "turn-1"}},
            "turn/steer": {"turnId": "turn-1"},
            "thread/start": {"thread": {"id": THREAD, "cwd": self.path}, "model": "m"},
            "thread/resume": {"thread": {"id": THREAD, "cwd": self.path}, "model": "m"},
        }

    def status(self) -> ProjectStatus:
        return ProjectStatus(
            project=self.project,
            path=self.path,
            inside=self.path,
            account=self.account,
            trusted=self.trusted,
            state=self.state,
            desired="running",
            reason=None,
            runtime="host",
            generation=1,
            pid=1,
            codex_version="0",
            cursor="e.0",
            active_turns=0,
            waiting_approvals=0,
            subscribers=0,
            store_waiting=False,
            spool_backlog_bytes=0,
            restarts=0,
        )

    async def ready(self, timeout: float) -> None:
        self.waited_ready += 1

    async def _held(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def ask(self, method: str, params: object) -> msgspec.Raw:
        self.asked.append((method, params))
        await self._held()
        if method == "thread/read":
            assert isinstance(params, dict)
            return raw({"thread": {"id": params["threadId"], "cwd": self.thread_cwd}})
        answer = self.answers[method]
        return raw(answer.pop(0) if isinstance(answer, list) else answer)

    async def act(
        self,
        principal: Principal,
        method: str,
        params: dict[str, object],
        *,
        idempotency_key: str | None = None,
    ) -> Acted:
        await self._held()
        self.acted.append((method, params, idempotency_key))
        result = raw(self.outcomes.get(method, {}))
        return Acted(request_id=f"run-{len(self.acted)}", result=result, replayed=False)

    def waiting(self) -> list[ServerRequestRow]:
        return self.requests

    async def answer(self, principal: Principal, approval_id: str, result: object) -> None:
        if approval_id not in [row.approval_id for row in self.requests]:
            raise SupervisorError(ErrorCode.APPROVAL_UNKNOWN, "no such approval")
        self.answered.append((approval_id, result))

    async def subscribe(self, thread_id: str | None, after: Cursor | None) -> Subscription:
        self.subscribed.append((thread_id, after))
        await self._held()
        subscription = self.make_subscription()
        self.subscriptions.append(subscription)
        return subscription

    async def audit(self, after_seq: int, limit: int, thread_id: str | None) -> list[AuditRow]:
        return [row for row in self.records if row.seq > after_seq][:limit]

    def audit_end(self) -> tuple[int, str]:
        return self.end

    async def begin_exec(self, principal: Principal, command: Command) -> Begun:
        self.begun.append((principal, command))
        await self._held()
        line = ExecLine(argv=["podman", "exec", *command.argv], environment={"A": "b"})
        return Begun(exec_id=f"run-{len(self.begun)}", line=line)

    async def end_exec(
        self, principal: Principal, exec_id: str, exit_code: int, duration_ms: int
    ) -> None:
        self.ended.append((exec_id, exit_code, duration_ms))

    async def log_tail(self, limit_bytes: int) -> str:
        return "the end"[-limit_bytes:]


class FakeAgents:
    """All of them."""

    def __init__(self, *agents: FakeAgent) -> None:
        self.agents = {agent.project: agent for agent in agents}
        self.did: list[tuple[object, ...]] = []

    async def open(self, principal: Principal, path: str) -> Agent:
        self.did.append(("open", path))
        for agent in self.agents.values():
            if agent.path == path:
                return agent
        raise SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, "no such directory")

    def get(self, project: str) -> Agent:
        try:
            return self.agents[ProjectId(project)]
        except KeyError:
            raise SupervisorError(ErrorCode.PROJECT_UNKNOWN, f"unknown: {project}") from None

    def all(self) -> list[Agent]:
        return list(self.agents.values())

    async def stop(self, principal: Principal, project: str) -> None:
        self.did.append(("stop", project))

    async def restart(self, principal: Principal, project: str) -> None:
        self.did.append(("restart", project))

    async def trust(self, principal: Principal, project: str, trusted: bool) -> None:
        self.did.append(("trust", project, trusted))


def server_request(approval_id: str, method: str, thread_id: str = THREAD) -> ServerRequestRow:
    return ServerRequestRow(
        project=ProjectId("p1"),
        approval_id=approval_id,
        generation=Generation(1),
        request_id=b"0",
        method=method,
        thread_id=thread_id,
        turn_id="turn-1",
        item_id="item-1",
        params=b'{"command":"ls"}',
        state="waiting",
        asked_n=3,
        asked_at=1.0,
    )


def facts(clock: FakeClock | None = None) -> HostFacts:
    return HostFacts(version="1.2.3", pid=42, started=90.0, clock=clock or FakeClock())  # type: ignore[arg-type]


def dispatcher(agents: FakeAgents, meter: CountingMeter) -> Dispatcher:
    return Dispatcher(agents, facts(), meter)
