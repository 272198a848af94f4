"""One peer's exchanges, whatever carries its frames.

Owned by one event loop: `feed` never waits, and each exchange is a task of the connection's own
`TaskGroup`. An exchange lives from its request until its last reply; its inbox cannot be used twice
meanwhile. Writes wait for the peer; a peer that does not read holds up nobody but itself, until the
transport's `send` gives up on it.

What a peer can make us hold is bounded: `in_flight` requests, `streams`, and `refusals` error
replies not yet written. Past the last one `choked` is true, and the transport stops reading.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import structlog

from supervisor.buses.frames import (
    Hello,
    NotTextError,
    decode_frame,
    encode_end,
    encode_error,
    encode_hello,
    encode_reply,
)
from supervisor.buses.subjects import ERROR, check_inbox, parse_subject
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.bus import Exchange, Frame, Service
from supervisor.rpc.meter import RpcMeter

FAIR_SHARE = 64
"""Payloads of a stream after which others get their turn, however fast the peer reads."""


_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one peer may use."""

    max_frame_bytes: int = 16 * 1024 * 1024
    in_flight: int = 64
    streams: int = 32
    refusals: int = 64
    write_timeout: float = 60.0
    """Seconds that a write waits for a peer that does not read."""
    connections: int = 256
    """Connections of one server."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Live:
    """An exchange that goes on."""

    exchange: Exchange
    task: asyncio.Task[None] | None = None
    seq: int = 0
    """The number of the next reply."""
    started: bool = False
    cancelled: bool = False
    """By its client; the end is told."""


class Connection:
    """The exchanges of one peer.

    `send` writes one frame, waits while the peer does not read, and raises `connection_lost` when
    there is no peer any more. Run `run`; call `feed` only while it runs.
    """

    def __init__(
        self,
        principal: Principal,
        service: Service,
        send: Callable[[bytes], Awaitable[None]],
        limits: Limits,
        *,
        meter: RpcMeter,
        transport: str,
    ) -> None:
        self.principal = principal
        self._service = service
        self._send = send
        self._limits = limits
        self._meter = meter
        self._transport = transport
        self._live: dict[str, _Live] = {}
        self._running: set[_Live] = set()
        self._streams = 0
        self._refusals = 0
        self._relief = asyncio.Event()
        self._relief.set()
        self._group: asyncio.TaskGroup | None = None

    @property
    def choked(self) -> bool:
        """The peer has too many error replies to read before anything else of it is heard."""
        return not self._relief.is_set()

    async def relief(self) -> None:
        """Wait until it is not choked."""
        await self._relief.wait()

    async def run(self, version: str, read: Callable[[], Awaitable[None]]) -> None:
        """Greet, then serve until `read` returns. Requests that act are carried out to their end;
        everything else ends with the peer."""
        hello = Hello(
            account=self.principal.account,
            server=version,
            in_flight=self._limits.in_flight,
            streams=self._limits.streams,
            max_frame_bytes=self._limits.max_frame_bytes,
        )
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._deliver(encode_hello(hello))
                await read()
            finally:
                self.close()

    def close(self) -> None:
        """The peer is gone. Idempotent."""
        self._group = None
        self._relief.set()
        for live in self._running:
            if not live.exchange.acts and live.task is not None:
                live.task.cancel()

    def feed(self, data: bytes) -> None:
        """One frame of the peer."""
        if self._group is None:
            return
        try:
            frame = decode_frame(data)
            inbox = check_inbox(frame.reply)
        except SupervisorError as error:
            reason = "not_utf8" if isinstance(error, NotTextError) else "junk"
            self.refuse(error, None, reason)
            return
        if frame.headers.cancel:
            self._cancel(inbox)
            return
        try:
            self._begin(self._group, inbox, frame)
        except SupervisorError as error:
            overloaded = error.code is ErrorCode.OVERLOADED
            self.refuse(error, inbox, "overloaded" if overloaded else None)

    def refuse(self, error: SupervisorError, inbox: str | None, reason: str | None) -> None:
        """Tell the peer of an error: of the request for `inbox`, or of no exchange.

        `reason` is what it is counted as where no method saw it, see `RpcMeter.refused`.
        """
        if self._group is None:
            return
        if reason is not None:
            self._meter.refused(self._transport, reason)
        self._refusals += 1
        if self._refusals >= self._limits.refusals:
            self._relief.clear()
        subject = ERROR if inbox is None or inbox in self._live else inbox
        self._group.create_task(self._told(self._failure(subject, 0, error)))

    async def _told(self, frame: bytes) -> None:
        try:
            await self._deliver(frame)
        finally:
            self._refusals -= 1
            self._relief.set()

    def _begin(self, group: asyncio.TaskGroup, inbox: str, frame: Frame) -> None:
        if inbox in self._live:
            raise SupervisorError(
                ErrorCode.BAD_REQUEST,
                "another exchange uses this reply inbox",
                details={"inbox": inbox},
            )
        if len(self._running) - self._streams >= self._limits.in_flight:
            raise SupervisorError(
                ErrorCode.OVERLOADED, f"{self._limits.in_flight} requests wait already"
            )
        exchange = self._service.accept(self.principal, parse_subject(frame.subject), frame.payload)
        if exchange.streaming and self._streams >= self._limits.streams:
            raise SupervisorError(
                ErrorCode.OVERLOADED, f"{self._limits.streams} streams are open already"
            )
        live = _Live(exchange=exchange)
        self._live[inbox] = live
        self._running.add(live)
        if exchange.streaming:
            self._streams += 1
            live.task = group.create_task(self._stream(inbox, live))
        else:
            live.task = group.create_task(self._call(inbox, live))

    def _cancel(self, inbox: str) -> None:
        """What has ended meanwhile, and what is no stream, is left alone."""
        live = self._live.get(inbox)
        if live is None or not live.exchange.streaming or live.task is None:
            return
        live.cancelled = True
        if live.started:
            # A task cancelled before its first step would never say goodbye.
            live.task.cancel()

    async def _call(self, inbox: str, live: _Live) -> None:
        try:
            try:
                last = encode_reply(inbox, 0, await live.exchange.result())
            except SupervisorError as error:
                last = self._failure(inbox, 0, error)
            # Whoever has read the last reply may use the inbox again at once.
            del self._live[inbox]
            await self._deliver(last)
        finally:
            self._forget(inbox, live)

    async def _stream(self, inbox: str, live: _Live) -> None:
        live.started = True
        try:
            last = await self._pumped(inbox, live)
            del self._live[inbox]
            await self._deliver(last)
        finally:
            self._streams -= 1
            self._forget(inbox, live)

    async def _pumped(self, inbox: str, live: _Live) -> bytes:
        """Write the stream; return its last frame."""
        try:
            await self._pump(inbox, live)
        except SupervisorError as error:
            return self._failure(inbox, live.seq, error)
        except asyncio.CancelledError:
            if not live.cancelled or self._group is None:
                raise
        except Exception:  # noqa: BLE001  # the last wall: a broken stream ends alone
            _log.exception("stream failed", action="rpc_internal")
            broken = SupervisorError(ErrorCode.INTERNAL, "the stream failed")
            return self._failure(inbox, live.seq, broken)
        return encode_end(inbox, live.seq)

    async def _pump(self, inbox: str, live: _Live) -> None:
        if live.cancelled:
            return
        stream = await live.exchange.stream()
        payloads = aiter(stream)
        try:
            async for payload in payloads:
                frame = encode_reply(inbox, live.seq, payload)
                live.seq += 1
                if not await self._deliver(frame):
                    return
                if live.seq % FAIR_SHARE == 0:
                    await asyncio.sleep(0)
        finally:
            stream.close()
            if isinstance(payloads, AsyncGenerator):
                await payloads.aclose()

    def _failure(self, subject: str, seq: int, error: SupervisorError) -> bytes:
        self._meter.error_sent(error.code.value)
        return encode_error(subject, seq, error)

    async def _deliver(self, frame: bytes) -> bool:
        """Whether there is still a peer."""
        try:
            await self._send(frame)
        except SupervisorError:
            self.close()
            return False
        return True

    def _forget(self, inbox: str, live: _Live) -> None:
        self._running.discard(live)
        if self._live.get(inbox) is live:
            del self._live[inbox]
