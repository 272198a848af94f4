"""One model request, from a container to the upstream and back, without holding it anywhere.

The container's bytes are never passed on as HTTP: they are parsed here, and what is allowed of them
is said anew. So what two parsers may read differently (lengths, folded headers) reaches nobody.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web
from yarl import URL

from supervisor.credentials.key import Key
from supervisor.credentials.routes import Denied, downward, upstream_path, upward
from supervisor.credentials.tally import MAX_REQUESTS, Outcome, Tally
from supervisor.errors import SupervisorError
from supervisor.logs import get_logger
from supervisor.settings_groups import ProxySettings

MAX_BODY: Final = 64 << 20
"""Bytes of a request: a long thread with its images has a tenth of it."""
UPLOAD_SECONDS: Final = 30.0
"""All the time a container may have us wait for the rest of a body it has begun. Codex has the
whole of it in memory, and the way here is the loopback: it takes milliseconds. What the upstream
takes to read it is not counted."""
MAX_FIELD: Final = 32 * 1024
"""Bytes of one header of an answer."""
_KEEP_ALIVE: Final = 15.0
"""Seconds an idle connection to the upstream is kept: less than servers keep theirs, for a request
on one that has just been closed would fail, and is not to be sent twice."""

log = get_logger()


class Forwarder:
    """`async with Forwarder(...) as forwarder:`, then `handle` each request.

    Belongs to one event loop. It holds the connections to the upstream, which all containers share.
    """

    def __init__(
        self, settings: ProxySettings, key: Key, *, upload_seconds: float = UPLOAD_SECONDS
    ) -> None:
        self.base_url = settings.base_url
        self._key = key
        self._upload_seconds = upload_seconds
        self._patience = settings.idle_timeout_seconds
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=settings.connect_timeout_seconds,
            sock_read=settings.idle_timeout_seconds,
        )
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # No limit here: each container's own add up to one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_field_size=MAX_FIELD,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def handle(self, tally: Tally, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the container that `tally` is of."""
        with tally.request():
            try:
                return await self._answer(tally, request)
            except Denied as denied:
                of_upstream = denied.is_of_upstream
                tally.count(Outcome.UNREACHABLE if of_upstream else Outcome.REFUSED)
                return _denied(denied)
            except asyncio.CancelledError:
                tally.count(Outcome.GONE)
                raise

    async def _answer(self, tally: Tally, request: web.BaseRequest) -> web.StreamResponse:
        if tally.active_requests > MAX_REQUESTS:
            message = f"more than {MAX_REQUESTS} requests at once"
            raise Denied(429, "too_many_requests", message, Retry_After="1")
        path = _checked(request)
        try:
            key = self._key.value()
        except SupervisorError as error:
            log.warning("credential_unusable", error=error.message)
            raise Denied(503, "credential_unavailable", error.message) from None
        body = Body(request, self._upload_seconds)
        try:
            async with self._session.request(
                request.method,
                URL(self.base_url + path, encoded=True),
                headers=[*upward(request.headers, key), *body.headers()],
                data=body.chunks() if request.method == "POST" else None,
                allow_redirects=False,
            ) as answer:
                return await self._pass_on(tally, request, answer, key)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # An answer that has begun does not get here: `_pass_on` sees to it.
            if body.denied is not None:
                raise body.denied from None
            raise _unreachable(error) from None

    async def _pass_on(
        self,
        tally: Tally,
        request: web.BaseRequest,
        answer: aiohttp.ClientResponse,
        key: str | None,
    ) -> web.StreamResponse:
        if answer.status < 200 or 300 <= answer.status < 400:
            # Not followed: wherever it leads, the key is not for there.
            raise Denied(502, "upstream_redirected", "the model API answered with a redirection")
        response = web.StreamResponse(status=answer.status, headers=downward(answer.headers, key))
        response.content_length = answer.content_length
        outcome = await self._stream(request, answer, response)
        tally.count(outcome)
        if outcome is not Outcome.COMPLETED and request.transport is not None:
            # Without the end of the body, which tells the client that it was cut off.
            request.transport.abort()
        return response

    async def _stream(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> Outcome:
        """Each piece as it comes; none is read before the one before is taken."""
        try:
            await self._taken(response.prepare(request))
            async for chunk in _chunks(answer):
                await self._taken(response.write(chunk))
            await self._taken(response.write_eof())
        except _CutError as error:
            log.warning("model_stream_cut", error=str(error))
            return Outcome.CUT
        except (ConnectionError, TimeoutError):
            return Outcome.GONE
        return Outcome.COMPLETED

    async def _taken(self, writing: Awaitable[object]) -> None:
        """A client that takes nothing for as long as an upstream may be silent is given up."""
        async with asyncio.timeout(self._patience):
            await writing


class Body:
    """A request's, as it comes."""

    def __init__(self, request: web.BaseRequest, seconds: float) -> None:
        self._request = request
        self._seconds = seconds
        """Left to wait for it."""
        self.denied: Denied | None = None
        """Why it was not taken to its end."""
        if (request.content_length or 0) > MAX_BODY:
            raise _too_large()

    def headers(self) -> list[tuple[str, str]]:
        """Its length, if the client told it. Without, it goes on in chunks."""
        length = self._request.content_length
        return [] if length is None else [("Content-Length", str(length))]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes. What is past a limit ends the upstream's request, unfinished."""
        size = 0
        while chunk := await self._next():
            size += len(chunk)
            if size > MAX_BODY:
                self.denied = _too_large()
                raise ValueError("the body is past the limit")
            yield chunk

    async def _next(self) -> bytes:
        """More of it; empty at its end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._request.content.readany()
        except TimeoutError:
            message = "the rest of the request took too long to come"
            self.denied = Denied(408, "request_timeout", message)
            raise ValueError(message) from None
        finally:
            self._seconds -= loop.time() - began


class _CutError(Exception):
    """The upstream ended before its answer did."""


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Errors of the upstream's end are told from those of the client's."""
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _CutError(type(error).__name__) from error


def _checked(request: web.BaseRequest) -> str:
    """What to ask of the upstream. Raises `Denied`."""
    headers = request.headers
    if request.version != aiohttp.HttpVersion11:
        raise Denied(505, "http_version", "the proxy speaks HTTP/1.1")
    if "Content-Length" in headers and "Transfer-Encoding" in headers:
        raise Denied(400, "ambiguous_length", "the request tells its length in two ways")
    if len(headers.getall("Host", [])) != 1:
        raise Denied(400, "ambiguous_host", "the request must name one host")
    if "Expect" in headers:
        raise Denied(417, "expectation_failed", "the proxy promises nothing beforehand")
    if "Upgrade" in headers:
        # Codex then goes on with server-sent events.
        message = "the proxy passes on no WebSocket"
        raise Denied(426, "websocket_not_supported", message, Upgrade="HTTP/1.1")
    path = upstream_path(request.method, request.raw_path)
    if request.method == "GET" and request.body_exists:
        raise Denied(400, "body_not_allowed", "this request has no body")
    return path


def _denied(denied: Denied) -> web.Response:
    response = web.Response(
        status=denied.status,
        body=denied.body(),
        headers=denied.headers,
        content_type="application/json",
    )
    # What is left of the request is not read.
    response.force_close()
    return response


def _too_large() -> Denied:
    return Denied(413, "request_too_large", f"a request may have {MAX_BODY} bytes")


def _unreachable(error: Exception) -> Denied:
    why = type(error).__name__
    log.warning("model_unreachable", error=str(error), kind=why)
    if isinstance(error, TimeoutError):
        return Denied(504, "upstream_timeout", f"the model API did not answer in time ({why})")
    return Denied(502, "upstream_unreachable", f"the model API cannot be reached ({why})")
