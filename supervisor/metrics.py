"""The metrics, one attribute each. Names start with `codex_supervisor_`; seconds and bytes only.

No label ever holds an id, a path or anything else a client or an agent chooses: each label has the
closed set of values below, and a series exists from the start, so that a rate never misses its
first increment. Those sets also make the children that hot paths use without a look-up:
`metrics.line["notification"].inc()`. docs/metrics.md lists every metric; a test compares the two.
"""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from supervisor.errors import ErrorCode

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of `Metrics.exposition`."""

AGENT_STATES = (
    "stopped",
    "starting",
    "ready",
    "draining",
    "backing_off",
    "quarantined",
    "lost",
)
EXIT_KINDS = (
    "asked",
    "crashed",
    "killed",
    "start_failed",
    "start_timeout",
    "unresponsive",
    "bad_config",
    "auth",
    "quota",
    "codex_missing",
    "codex_version",
    "disk_full",
    "oom",
    "vanished",
)
LINE_KINDS = ("notification", "request", "response", "error", "malformed")
LINE_REFUSALS = (
    "too_large",
    "not_utf8",
    "not_json",
    "too_deep",
    "lone_surrogate",
    "not_object",
    "bad_id",
    "not_a_message",
)
AGENT_WALLS = ("memory_limit", "pids_limit", "inner_wall")
"""What is to stand around each contained agent."""
CLAIM_KINDS = ("thread", "turn", "item")
TURN_OUTCOMES = ("completed", "interrupted", "failed")
APPROVAL_OUTCOMES = ("accepted", "declined", "cancelled", "answered", "expired", "abandoned")
SERVER_REQUEST_REFUSALS = ("unknown", "unsupported", "bad_params", "overloaded")
REQUEST_OUTCOMES = ("ok", "error")
RPC_REFUSALS = (
    "junk",
    "too_large",
    "not_utf8",
    "unauthenticated",
    "forbidden",
    "overloaded",
    "slow_peer",
)
STORE_TABLES = (
    "generations",
    "events",
    "threads",
    "intents",
    "turns",
    "items",
    "server_requests",
    "audit",
)
"""Those a batch has rows of, as batch and store call them."""
TRANSPORTS = ("unix", "websocket")

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10, 60)
_START = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 20, 60)
_TURN = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class Metrics:
    """Every metric of one supervisor, registered in the registry that is passed.

    Safe from any thread. One per registry: registering twice raises `ValueError`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._agents()
        self._agent_usage()
        self._lines()
        self._events()
        self._turns()
        self._requests()
        self._store()
        self.build_info = self._gauge("build_info", "1; the versions.", "version", "codex_version")

    def _agents(self) -> None:
        self.agents = self._gauge("agents", "Agents by state.", "state")
        self.agent_exits = self._counter(
            "agent_exits_total", "App-server processes that ended, by kind of exit.", "kind"
        )
        self.agent_restarts = self._counter(
            "agent_restarts_total", "Starts after an exit nobody asked for."
        )
        self.agent_start_seconds = self._histogram(
            "agent_start_seconds", "From spawn to the first ping answered.", _START
        )
        _start(self.agent_exits, EXIT_KINDS)
        self.agents_in = {state: self.agents.labels(state) for state in AGENT_STATES}

    def _agent_usage(self) -> None:
        """Of contained agents, all of them together; set when somebody looks."""
        self.agents_measured = self._gauge(
            "agents_measured", "Agents whose use of the machine is known: those in containers."
        )
        self.agents_without = self._gauge(
            "agents_without", "Contained agents around which something does not hold.", "wall"
        )
        self.agent_memory_bytes = self._gauge(
            "agent_memory_bytes", "Memory of all agents, without cache that can be dropped."
        )
        self.agent_memory_ratio_max = self._gauge(
            "agent_memory_ratio_max", "Of the agent nearest to its memory limit: used / limit."
        )
        self.agent_pids = self._gauge("agent_pids", "Processes and threads of all agents.")
        self.agent_cpu_seconds = self._counter(
            "agent_cpu_seconds_total", "CPU time of all agents, of ended ones too."
        )
        self.agent_throttled_seconds = self._counter(
            "agent_throttled_seconds_total",
            "Time agents waited because of their CPU limit.",
        )
        self.agent_oom_kills = self._counter(
            "agent_oom_kills_total", "Processes of agents killed for want of memory."
        )
        _start(self.agents_without, AGENT_WALLS)
        self.proxy_connected = self._gauge(
            "proxy_connected", "Whether the proxy is there that containers reach the model through."
        )
        self.agents_without_model = self._gauge(
            "agents_without_model", "Contained agents that the proxy does not serve now."
        )

    def _lines(self) -> None:
        self.lines = self._counter("lines_total", "Lines read from spools.", "kind")
        self.lines_refused = self._counter(
            "lines_refused_total", "Lines of app-servers that are no message.", "reason"
        )
        self.late_bytes = self._counter(
            "late_bytes_total", "Bytes that came into a spool after its end was handled."
        )
        self.spool_backlog_bytes = self._gauge("spool_backlog_bytes", "Bytes not yet read.")
        self.unknown_notifications = self._counter(
            "unknown_notifications_total", "Notifications the method table does not know."
        )
        self.claims_ignored = self._counter(
            "claims_ignored_total", "Claims of app-servers past the bounds of memory.", "kind"
        )
        self.unmatched_responses = self._counter(
            "unmatched_responses_total", "Responses to requests nobody waits for."
        )
        self.watcher_polling = self._gauge(
            "watcher_polling", "1 if spools are polled, because inotify is not to be had."
        )
        _start(self.claims_ignored, CLAIM_KINDS)
        self.line = {kind: self.lines.labels(kind) for kind in LINE_KINDS}
        self.line_refused = {why: self.lines_refused.labels(why) for why in LINE_REFUSALS}

    def _events(self) -> None:
        self.events_published = self._counter(
            "events_published_total", "Events given to the fan-out, each once."
        )
        self.subscribers = self._gauge("subscribers", "Open subscriptions.")
        self.subscriptions_lagged = self._counter(
            "subscriptions_lagged_total", "Times a subscription fell behind its bound."
        )
        self.cursor_expired = self._counter(
            "cursor_expired_total", "Subscriptions whose cursor could not be replayed."
        )

    def _turns(self) -> None:
        self.turns = self._counter("turns_total", "Turns that ended.", "outcome")
        self.turn_seconds = self._histogram(
            "turn_seconds", "From the start of a turn to its end.", _TURN
        )
        self.approvals = self._counter("approvals_total", "Server requests settled.", "outcome")
        self.approvals_waiting = self._gauge(
            "approvals_waiting", "Server requests waiting for a person."
        )
        self.server_requests_refused = self._counter(
            "server_requests_refused_total", "Server requests answered with an error.", "reason"
        )
        _start(self.turns, TURN_OUTCOMES)
        _start(self.approvals, APPROVAL_OUTCOMES)
        _start(self.server_requests_refused, SERVER_REQUEST_REFUSALS)

    def _requests(self) -> None:
        self.requests = self._counter(
            "requests_total", "RPC requests of known methods.", "method", "outcome"
        )
        self.rpc_errors = self._counter("rpc_errors_total", "Errors sent to clients.", "code")
        self.rpc_refused = self._counter(
            "rpc_refused_total", "Connections and frames refused before any method ran.", "reason"
        )
        self.connections = self._gauge("connections", "Open connections.", "transport")
        self.upstream_requests_in_flight = self._gauge(
            "upstream_requests_in_flight", "Requests app-servers have not answered yet."
        )
        self.upstream_request_seconds = self._histogram(
            "upstream_request_seconds", "From a request's write to its response.", _FAST
        )
        _start(self.rpc_errors, ErrorCode)
        _start(self.rpc_refused, RPC_REFUSALS)
        _start(self.connections, TRANSPORTS)

    def _store(self) -> None:
        self.store_commit_seconds = self._histogram(
            "store_commit_seconds", "One transaction of one project.", _FAST
        )
        self.store_failures = self._counter("store_failures_total", "Transactions that failed.")
        self.store_rows = self._counter("store_rows_total", "Rows written.", "table")
        _start(self.store_rows, STORE_TABLES)

    def set_build(self, version: str, codex_version: str) -> None:
        """Say which versions run; replaces what was said before."""
        self.build_info.clear()
        self.build_info.labels(version, codex_version).set(1)

    def start_methods(self, methods: Iterable[str]) -> None:
        """Make the series of every RPC method; `requests` takes no other method."""
        for method in methods:
            for outcome in REQUEST_OUTCOMES:
                self.requests.labels(method, outcome)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"codex_supervisor_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"codex_supervisor_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"codex_supervisor_{name}", says, buckets=buckets, registry=self.registry)


def _start(metric: Counter | Gauge, values: Iterable[str]) -> None:
    for value in values:
        metric.labels(value)
