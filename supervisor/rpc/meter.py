"""What the RPC counts."""

from typing import Protocol

from supervisor.metrics import Metrics


class RpcMeter(Protocol):
    """Counters. Every value given to them comes from a closed list; none is an id."""

    def request(self, method: str, code: str | None, seconds: float) -> None:
        """A request ended: `method` (`unknown` for none of ours), its error code or None, and how
        long it took. For a stream: how long until it was open."""

    def error_sent(self, code: str) -> None:
        """A client was told of an error."""

    def connection_opened(self, transport: str) -> None:
        """`transport` is `unix` or `websocket`."""

    def connection_closed(self, transport: str) -> None:
        """The counterpart."""

    def refused(self, transport: str, reason: str) -> None:
        """A connection or a frame was turned away before any method ran: `junk`, `not_utf8`,
        `too_large`, `unauthenticated`, `forbidden`, `overloaded`; or a connection was dropped
        because its peer does not read: `slow_peer`. `transport` may be `http`, too."""


class PrometheusMeter:
    """Counts in the process's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, method: str, code: str | None, seconds: float) -> None:  # noqa: ARG002
        if method != "unknown":
            self._metrics.requests.labels(method, "ok" if code is None else "error").inc()

    def error_sent(self, code: str) -> None:
        self._metrics.rpc_errors.labels(code).inc()

    def connection_opened(self, transport: str) -> None:
        self._metrics.connections.labels(transport).inc()

    def connection_closed(self, transport: str) -> None:
        self._metrics.connections.labels(transport).dec()

    def refused(self, transport: str, reason: str) -> None:  # noqa: ARG002
        self._metrics.rpc_refused.labels(reason).inc()
