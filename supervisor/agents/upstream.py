"""Requests of ours to one app-server: ids, answers, and the bound on how many are in flight."""

import asyncio

import msgspec

from supervisor.agents.effects import Answer
from supervisor.agents.fifo import FifoWriter
from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.metrics import Metrics
from supervisor.protocol import jsonrpc
from supervisor.protocol.encoding import request
from supervisor.protocol.jsonrpc import Kind


class RequestIds:
    """`<run>-<n>`: tells whose request an answer belongs to, over restarts of the supervisor."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._n = 0

    def next(self) -> str:
        """A new one."""
        self._n += 1
        return f"{self.run}-{self._n}"


class Upstream:
    """One app-server's stdin, and the answers it owes us. Ends with its generation."""

    def __init__(
        self,
        writer: FifoWriter | None,
        ids: RequestIds,
        *,
        in_flight: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._ids = ids
        self._in_flight = in_flight
        self._clock = clock
        self._metrics = metrics
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._closed = writer is None

    @property
    def closed(self) -> bool:
        """The app-server has ended, or was never there."""
        return self._closed

    async def ask(
        self,
        method: str,
        params: object,
        *,
        timeout: float,
        request_id: str | None = None,
    ) -> msgspec.Raw:
        """Write a request and wait for its result. Seconds.

        `overloaded` past the bound (Codex loses answers past its own), `codex_timeout`,
        `codex_refused`, `agent_restarted` if the app-server ends meanwhile.
        """
        request_id = request_id or self._ids.next()
        line = request(request_id, method, params)
        answer = self._expect(request_id)
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self.write(line)
                got = await answer
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.CODEX_TIMEOUT, f"no answer to {method} within {timeout:g} s"
            ) from None
        finally:
            self._answers.pop(request_id, None)
            self._metrics.upstream_requests_in_flight.dec()
        self._metrics.upstream_request_seconds.observe(self._clock.monotonic() - began)
        return result_or_refusal(got)

    def _expect(self, request_id: str) -> asyncio.Future[Answer]:
        if self._closed:
            raise SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server has ended")
        if len(self._answers) >= self._in_flight:
            raise SupervisorError(
                ErrorCode.OVERLOADED, f"{self._in_flight} requests are in flight already"
            )
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        self._metrics.upstream_requests_in_flight.inc()
        return answer

    def resolve(self, answer: Answer) -> bool:
        """Hand an answer to whoever waits; False if nobody does."""
        waiting = self._answers.get(answer.request_id)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(answer)
        return True

    async def write(self, line: bytes) -> None:
        """Write one encoded line. `agent_restarted` once nobody reads."""
        await self._open_writer().write_line(line.removesuffix(b"\n"))

    async def write_newline(self) -> None:
        """End what a predecessor may have left half written."""
        await self._open_writer().write_newline()

    def _open_writer(self) -> FifoWriter:
        if self._writer is None:
            raise SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server has ended")
        return self._writer

    def close(self) -> None:
        """The app-server has ended: nobody will answer."""
        self._closed = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(
                    SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server ended first")
                )
        if self._writer is not None:
            self._writer.close()


def result_or_refusal(answer: Answer) -> msgspec.Raw:
    """The result; `codex_refused` with Codex's own words for an error."""
    if answer.parsed.kind is Kind.ERROR:
        error = jsonrpc.error_of(answer.line)
        raise SupervisorError(
            ErrorCode.OVERLOADED if error.code == jsonrpc.OVERLOADED else ErrorCode.CODEX_REFUSED,
            error.message,
            details={"error": {"code": error.code, "message": error.message}},
        )
    return jsonrpc.result_of(answer.line)
