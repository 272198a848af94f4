"""The client's side of the RPC, transport apart: exchanges, and what comes back for them.

    async with connect_unix(path) as client:                    # supervisor.api.dialing
        status = await client.call("my-project", "projectStatus", {})
        async with aclosing(client.stream("my-project", "subscribe", {})) as events:
            async for event in events: ...

One client may be used by many tasks of one event loop. It keeps to the limits that the server's
greeting names, by waiting. A stream that is not read costs a bounded buffer; past it the client
stops reading its socket, which holds up the other exchanges of this client: give a slow consumer a
client of its own. A lost connection is never made again here: the caller knows its cursor.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from supervisor.buses.frames import (
    ErrorBody,
    Hello,
    Reply,
    decode_reply,
    encode_cancel,
    encode_request,
)
from supervisor.buses.subjects import ERROR, HELLO, format_subject
from supervisor.errors import ErrorCode, SupervisorError

BUFFER = 4 * 1024 * 1024
"""Bytes of unread stream payloads past which the socket is not read."""

_HELLO = msgspec.json.Decoder(Hello)
_VALUE = msgspec.json.Decoder()


def _value(raw: bytes | msgspec.Raw) -> object:
    """What an agent said is shown as it said it; numbers beyond a double become infinite."""
    try:
        return _VALUE.decode(raw)
    except msgspec.ValidationError:
        return json.loads(bytes(raw))


class _Exchange:
    """What came for one inbox and was not taken yet."""

    __slots__ = ("ended", "failure", "payloads", "seq", "waiter")

    def __init__(self) -> None:
        self.payloads: deque[bytes] = deque()
        self.seq = 0
        self.ended = False
        self.failure: SupervisorError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: SupervisorError) -> None:
        self.failure = error
        self.ended = True
        self.wake()

    async def wait(self) -> None:
        """Until something changes."""
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None


class RpcClient:
    """Calls and streams over one connection. Made by `supervisor.api.dialing`."""

    def __init__(
        self,
        write: Callable[[bytes], Awaitable[None]],
        set_reading: Callable[[bool], None],
        hello: Hello,
    ) -> None:
        self.account = hello.account
        self.server_version = hello.server
        self._max_frame_bytes = hello.max_frame_bytes
        self._write = write
        self._set_reading = set_reading
        self._places = asyncio.Semaphore(max(1, hello.in_flight))
        self._exchanges: dict[str, _Exchange] = {}
        self._counter = 0
        self._buffered = 0
        self._lost: SupervisorError | None = None

    async def call(
        self, project: str | None, method: str, params: dict[str, object] | None = None
    ) -> object:
        """The decoded result. `project` None asks on the host's subject."""
        return _value(await self.call_raw(project, method, params))

    async def call_raw(
        self, project: str | None, method: str, params: dict[str, object] | None = None
    ) -> bytes:
        """The result, JSON. Raises the server's error, or `connection_lost`."""
        async with self._places:
            inbox, exchange = self._open()
            try:
                await self._ask(project, method, params, inbox)
                while not exchange.payloads and exchange.failure is None:
                    await exchange.wait()
            finally:
                self._drop(inbox)
        if exchange.payloads:
            return exchange.payloads[0]
        assert exchange.failure is not None
        raise exchange.failure

    async def stream(
        self, project: str | None, method: str, params: dict[str, object] | None = None
    ) -> AsyncGenerator[object, None]:
        """The decoded payloads. Close it (`aclosing`) to end the stream early."""
        async with aclosing(self.stream_raw(project, method, params)) as payloads:
            async for payload in payloads:
                yield _value(payload)

    async def stream_raw(
        self, project: str | None, method: str, params: dict[str, object] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The payloads, JSON. Raises the server's error, or `connection_lost`."""
        inbox, exchange = self._open()
        try:
            await self._ask(project, method, params, inbox)
            while True:
                while exchange.payloads:
                    yield self._taken(exchange)
                if exchange.failure is not None:
                    raise exchange.failure
                if exchange.ended:
                    return
                await exchange.wait()
        finally:
            self._drop(inbox)
            if not exchange.ended:
                await self._cancel(project, inbox)

    def lose(self, error: SupervisorError) -> None:
        """The connection is gone: everything that waits gets `error`. Idempotent."""
        if self._lost is None:
            self._lost = error
            for exchange in self._exchanges.values():
                exchange.fail(error)

    def received(self, data: bytes) -> None:
        """One frame of the server. Raises `connection_lost` if it is none."""
        reply = decode_reply(data)
        exchange = self._exchanges.get(reply.subject)
        if exchange is not None:
            self._deliver(exchange, reply)
        elif reply.subject == ERROR and reply.headers.error is not None:
            self._complain(reply.headers.error)
        # Anything else is late: its exchange was given up.

    def _deliver(self, exchange: _Exchange, reply: Reply) -> None:
        headers = reply.headers
        if headers.error is not None:
            exchange.fail(from_body(headers.error))
        elif headers.seq != exchange.seq:
            exchange.fail(
                SupervisorError(
                    ErrorCode.CONNECTION_LOST,
                    f"reply {headers.seq} came where {exchange.seq} was due",
                )
            )
        elif headers.end:
            exchange.ended = True
            exchange.wake()
        else:
            exchange.seq += 1
            payload = bytes(reply.payload)
            exchange.payloads.append(payload)
            self._buffered += len(payload)
            if self._buffered > BUFFER:
                self._set_reading(False)
            exchange.wake()

    def _complain(self, body: ErrorBody) -> None:
        """An error of no exchange of ours: of one whose frame could not be read, if it says so."""
        inbox = (body.details or {}).get("reply")
        for name, exchange in self._exchanges.items():
            if inbox is None or name == inbox:
                exchange.fail(from_body(body))

    def _open(self) -> tuple[str, _Exchange]:
        if self._lost is not None:
            raise self._lost
        self._counter += 1
        inbox = f"_INBOX.{self._counter}"
        exchange = _Exchange()
        self._exchanges[inbox] = exchange
        return inbox, exchange

    async def _ask(
        self, project: str | None, method: str, params: dict[str, object] | None, inbox: str
    ) -> None:
        subject = format_subject(project, self.account)
        frame = encode_request(subject, method, params or {}, inbox)
        if len(frame) > self._max_frame_bytes:
            raise SupervisorError(
                ErrorCode.TOO_LARGE,
                f"a frame of {len(frame)} bytes; the limit is {self._max_frame_bytes}",
            )
        await self._write(frame)

    async def _cancel(self, project: str | None, inbox: str) -> None:
        if self._lost is None:
            try:
                await self._write(encode_cancel(format_subject(project, self.account), inbox))
            except SupervisorError as error:
                self.lose(error)

    def _taken(self, exchange: _Exchange) -> bytes:
        payload = exchange.payloads.popleft()
        self._read(len(payload))
        return payload

    def _read(self, size: int) -> None:
        before = self._buffered
        self._buffered -= size
        if before > BUFFER // 2 >= self._buffered:
            self._set_reading(True)

    def _drop(self, inbox: str) -> None:
        exchange = self._exchanges.pop(inbox)
        self._read(sum(len(payload) for payload in exchange.payloads))


def parse_hello(data: bytes) -> Hello:
    """The server's greeting. Raises its refusal, or `connection_lost` if it is neither."""
    reply = decode_reply(data)
    if reply.headers.error is not None:
        raise from_body(reply.headers.error)
    try:
        if reply.subject == HELLO:
            return _HELLO.decode(reply.payload)
        problem = f"first frame on subject {reply.subject[:64]!r}"
    except msgspec.MsgspecError as error:
        problem = str(error)
    raise SupervisorError(
        ErrorCode.CONNECTION_LOST, f"this is no supervisor of a version we know: {problem}"
    )


def from_body(body: ErrorBody) -> SupervisorError:
    """The error a server sent; a code of a newer server is shown as `internal`, and named."""
    details = dict(body.details or {})
    try:
        code = ErrorCode(body.code)
    except ValueError:
        code = ErrorCode.INTERNAL
        details["code"] = body.code
    return SupervisorError(
        code, body.message, hint=body.hint, retryable=body.retryable, details=details
    )
