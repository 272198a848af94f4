"""Requests written by somebody who wants more than the model."""

import asyncio
import re

import pytest

from supervisor.credentials.holding import MAX_CONNECTIONS, MAX_FIELD
from supervisor.settings_groups import ProxySettings
from tests.integration.proxy.doors import door, upstream

POST = b"POST /v1/responses HTTP/1.1\r\n"
HEAD = b"Host: x\r\nConnection: close\r\n"
EMPTY = HEAD + b"Content-Length: 0\r\n\r\n"

REFUSED = {
    "another path": (b"GET /v1/files HTTP/1.1\r\n" + EMPTY, 404),
    "the root": (b"GET / HTTP/1.1\r\n" + EMPTY, 404),
    "the path without its base": (b"POST /responses HTTP/1.1\r\n" + EMPTY, 404),
    "a stored response": (b"GET /v1/responses/resp_1 HTTP/1.1\r\n" + EMPTY, 404),
    "traversal": (b"POST /v1/responses/../files HTTP/1.1\r\n" + EMPTY, 404),
    "traversal to the path": (b"POST /v1/files/../responses HTTP/1.1\r\n" + EMPTY, 404),
    "encoded slash": (b"POST /v1%2fresponses HTTP/1.1\r\n" + EMPTY, 404),
    "encoded letter": (b"POST /v1/%72esponses HTTP/1.1\r\n" + EMPTY, 404),
    "double slash": (b"POST //v1/responses HTTP/1.1\r\n" + EMPTY, 404),
    "trailing slash": (b"POST /v1/responses/ HTTP/1.1\r\n" + EMPTY, 404),
    "parameters": (b"POST /v1/responses;a=b HTTP/1.1\r\n" + EMPTY, 404),
    "capitals": (b"POST /V1/RESPONSES HTTP/1.1\r\n" + EMPTY, 404),
    "absolute form": (b"POST http://api.openai.com/v1/responses HTTP/1.1\r\n" + EMPTY, 404),
    "absolute form of its own": (
        b"POST http://127.0.0.1:8181/v1/responses HTTP/1.1\r\n" + EMPTY,
        404,
    ),
    "a tunnel": (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    "the server": (b"OPTIONS * HTTP/1.1\r\n" + EMPTY, 404),
    "a query": (b"POST /v1/responses?a=b HTTP/1.1\r\n" + EMPTY, 403),
    "an empty query": (b"POST /v1/responses? HTTP/1.1\r\n" + EMPTY, 403),
    "another query": (b"GET /v1/models?client_version=1&x=1 HTTP/1.1\r\n" + EMPTY, 403),
    "delete": (b"DELETE /v1/responses HTTP/1.1\r\n" + EMPTY, 405),
    "get": (b"GET /v1/responses HTTP/1.1\r\n" + EMPTY, 405),
    "head": (b"HEAD /v1/models HTTP/1.1\r\n" + EMPTY, 405),
    "lower case method": (b"post /v1/responses HTTP/1.1\r\n" + EMPTY, (400, 405)),
    "method of its own": (b"FROB /v1/responses HTTP/1.1\r\n" + EMPTY, (400, 405)),
    "a body where none is": (
        b"GET /v1/models HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\nab",
        400,
    ),
    "websocket": (
        b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        426,
    ),
    "h2c": (
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 0\r\n\r\n",
        426,
    ),
    "expect": (POST + HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n", 417),
    "two hosts": (b"POST /v1/responses HTTP/1.1\r\nHost: y\r\n" + EMPTY, 400),
    "no host": (
        b"POST /v1/responses HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    "both lengths": (
        POST
        + HEAD
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/files HTTP",
        400,
    ),
    "two lengths": (
        POST + HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "a length with a sign": (POST + HEAD + b"Content-Length: +1\r\n\r\na", 400),
    "an encoding of transfer not known": (
        POST + HEAD + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an encoding of transfer in disguise": (
        POST + HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "folded header": (
        POST + HEAD + b"x-codex-a: b\r\n Content-Length: 3\r\n\r\nabc",
        400,
    ),
    "newline alone": (b"POST /v1/responses HTTP/1.1\nHost: x\nContent-Length: 0\n\n", 400),
    "NUL": (POST + HEAD + b"x-codex-a: \0\r\n\r\n", 400),
    "huge header": (
        POST + HEAD + b"x-codex-a: " + b"a" * (MAX_FIELD * 4) + b"\r\n\r\n",
        400,
    ),
    "huge line": (b"POST /v1/" + b"a" * 100_000 + b" HTTP/1.1\r\n" + EMPTY, 400),
    "many headers": (POST + b"x-codex-a: b\r\n" * 10_000 + EMPTY, 400),
    "an older version": (b"POST /v1/responses HTTP/1.0\r\n" + EMPTY, 505),
    "no version": (b"POST /v1/responses\r\n" + EMPTY, 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    "junk": (bytes(range(256)) * 40, 400),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_it_is_refused_and_nothing_reaches_the_upstream(what: str) -> None:
    request, statuses = REFUSED[what]
    allowed = statuses if isinstance(statuses, tuple) else (statuses,)
    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        answer = await inside.raw(request)
        status = int(answer.split()[1])
        assert status in allowed, answer[:300]
        assert api.asked == []
        async with inside.get() as response:
            assert response.status == 200


BROKEN_BODIES = {
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "huge chunk size": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    "chunk past its size": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "chunks without an end": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "less than its length": b"Content-Length: 10\r\n\r\nabc",
}


@pytest.mark.parametrize("what", BROKEN_BODIES)
async def test_a_broken_body_is_never_taken_for_a_whole_one(what: str) -> None:
    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        answer = await inside.raw(POST + HEAD + BROKEN_BODIES[what], ended=True)
        assert b" 200 " not in answer
        async with inside.get() as response:
            assert response.status == 200
        assert all(path != "/v1/files" for _, path, _ in api.asked)


async def test_what_follows_a_request_is_another_request_of_its_own() -> None:
    smuggled = b"GET /v1/files HTTP/1.1\r\n" + EMPTY
    first = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        answer = await inside.raw(first + smuggled)
        assert re.findall(rb"HTTP/1.1 ([0-9]+) ", answer) == [b"200", b"404"]
        assert [path for _, path, _ in api.asked] == ["/v1/responses"]


async def test_connections_past_the_bound_are_closed_and_the_others_go_on() -> None:
    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        open_ones = [
            await asyncio.open_connection("127.0.0.1", inside.port) for _ in range(MAX_CONNECTIONS)
        ]
        try:
            assert await inside.raw(b"GET /v1/models HTTP/1.1\r\n" + EMPTY) == b""
            reader, writer = open_ones[0]
            writer.write(b"GET /v1/models HTTP/1.1\r\n" + EMPTY)
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        finally:
            for _, writer in open_ones:
                writer.close()

        # Once the proxy has seen that they are closed.
        while not await inside.raw(b"GET /v1/models HTTP/1.1\r\n" + EMPTY):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
