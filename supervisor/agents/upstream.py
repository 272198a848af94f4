"""Requests of ours to one app-server: ids, answers, and the bound on how many are in flight."""

import asyncio
from collections.abc import Coroutine

import msgspec

from supervisor.agents.effects import Answer
from supervisor.agents.fifo import FifoWriter
from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.metrics import Metrics
from supervisor.protocol import jsonrpc
from supervisor.protocol.encoding import request
from supervisor.protocol.jsonrpc import Kind


class UnwrittenError(SupervisorError):
    """The app-server cannot have got the request: it was not written, or not to its end."""


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
        write_timeout: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._ids = ids
        self._in_flight = in_flight
        self._write_timeout = write_timeout
        self._clock = clock
        self._metrics = metrics
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._owed: set[str] = set()
        """Requests nobody waits for any more, and the app-server still has."""
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
        own: bool = False,
    ) -> msgspec.Raw:
        """Write a request and wait for its result. Seconds.

        `own` requests, the supervisor's, may take the places that are kept free from clients'.
        `overloaded` past the bound (Codex loses answers past its own), `codex_timeout`,
        `codex_refused`, `agent_restarted` if the app-server ends meanwhile.
        """
        request_id = request_id or self._ids.next()
        line = request(request_id, method, params)
        answer = self._expect(request_id, own=own)
        began = self._clock.monotonic()
        try:
            if not self._open_writer().try_write_line(line[:-1]):
                await self._write_within(timeout, line)
            got = await _in_time(answer, timeout - (self._clock.monotonic() - began))
        except TimeoutError:
            raise SupervisorError(
                ErrorCode.CODEX_TIMEOUT, f"no answer to {method} within {timeout:g} s"
            ) from None
        finally:
            self._let_go(request_id)
        self._metrics.upstream_request_seconds.observe(self._clock.monotonic() - began)
        return result_or_refusal(got)

    def _expect(self, request_id: str, *, own: bool) -> asyncio.Future[Answer]:
        if self._closed:
            raise UnwrittenError(ErrorCode.AGENT_RESTARTED, "the app-server has ended")
        bound = self._in_flight
        if not own:
            bound -= min(bound - 1, max(1, bound // 8))
        if len(self._answers) + len(self._owed) >= bound:
            raise UnwrittenError(ErrorCode.OVERLOADED, f"{bound} requests are in flight already")
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        self._metrics.upstream_requests_in_flight.inc()
        return answer

    def _let_go(self, request_id: str) -> None:
        waiting = self._answers.pop(request_id)
        unanswered = waiting.done() and (waiting.cancelled() or waiting.exception() is not None)
        if unanswered and not self._closed:
            self._owed.add(request_id)
        else:
            self._metrics.upstream_requests_in_flight.dec()

    def resolve(self, answer: Answer) -> bool:
        """Hand an answer to whoever waits; False if nobody ever did."""
        waiting = self._answers.get(answer.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
            return True
        if answer.request_id in self._owed:
            self._owed.remove(answer.request_id)
            self._metrics.upstream_requests_in_flight.dec()
            return True
        return False

    async def _write_within(self, seconds: float, line: bytes) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.write(line)
        except TimeoutError:
            # Half a line, which the next one's newline ends: Codex ignores what is no JSON.
            raise UnwrittenError(
                ErrorCode.CODEX_TIMEOUT, f"the app-server did not read the request in {seconds:g} s"
            ) from None

    def try_write(self, line: bytes) -> bool:
        """Write one encoded line if that needs no waiting; False: `write` it."""
        try:
            return self._open_writer().try_write_line(line.removesuffix(b"\n"))
        except SupervisorError:
            return False

    async def write(self, line: bytes) -> None:
        """Write one encoded line. `agent_restarted` once nobody reads, `codex_timeout` while
        somebody should."""
        writer = self._open_writer()
        await self._in_write_time(writer.write_line(line.removesuffix(b"\n")))

    async def write_newline(self) -> None:
        """End what a predecessor may have left half written. Errors as `write`."""
        await self._in_write_time(self._open_writer().write_newline())

    async def _in_write_time(self, writing: Coroutine[None, None, None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await writing
        except TimeoutError:
            raise UnwrittenError(
                ErrorCode.CODEX_TIMEOUT, "the app-server does not read its stdin"
            ) from None

    def _open_writer(self) -> FifoWriter:
        if self._writer is None:
            raise SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server has ended")
        return self._writer

    def close(self) -> None:
        """The app-server has ended: nobody will answer."""
        self._closed = True
        self._metrics.upstream_requests_in_flight.dec(len(self._owed))
        self._owed.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(
                    SupervisorError(ErrorCode.AGENT_RESTARTED, "the app-server ended first")
                )
        if self._writer is not None:
            self._writer.close()


async def _in_time(answer: asyncio.Future[Answer], seconds: float) -> Answer:
    """The answer, or TimeoutError. A bare timer: `asyncio.timeout` takes 4 µs, this takes 1."""
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, answer)
    try:
        return await answer
    finally:
        timer.cancel()


def _give_up(answer: asyncio.Future[Answer]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


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
