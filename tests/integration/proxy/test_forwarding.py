"""What the proxy passes on to the model API, and back."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from supervisor.credentials.forward import MAX_BODY, Body
from supervisor.credentials.tally import MAX_REQUESTS
from supervisor.settings_groups import ProxySettings
from supervisor.testing.model import ScriptedModel
from tests.conftest import require
from tests.contract.scripted import until
from tests.integration.proxy.doors import CANARY, door, key_file, upstream


def prompt(text: str) -> dict[str, object]:
    content = [{"type": "input_text", "text": text}]
    return {"model": "m", "stream": True, "input": [{"role": "user", "content": content}]}


async def code(response: aiohttp.ClientResponse) -> str:
    assert response.content_type == "application/json"
    error = (await response.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert CANARY not in str(error)
    return str(error["code"])


async def test_a_turn_reaches_the_model_with_our_key_and_comes_back_whole(tmp_path: Path) -> None:
    async with ScriptedModel() as model:
        settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
        async with door(settings) as inside:
            said = prompt("mock:text n=50")
            async with inside.post(None, json=said) as response:
                body = await response.text()
                assert response.status == 200
                assert response.content_type == "text/event-stream"
            assert body.count("event: response.output_text.delta") == 50
            assert "event: response.completed" in body
            assert model.requests[0].authorization == f"Bearer {CANARY}"
            assert inside.served().requests == {"completed": 1}


async def test_headers_of_the_container_that_are_credentials_or_routes_stay(tmp_path: Path) -> None:
    async with upstream() as api:
        settings = ProxySettings(base_url=api.base_url, key_file=key_file(tmp_path))
        async with door(settings) as inside:
            ours = {"session-id": "s", "x-codex-turn-metadata": "{}", "User-Agent": "codex"}
            theirs = {
                "Authorization": "Bearer theirs",
                "api-key": "theirs",
                "x-api-key": "theirs",
                "Cookie": "theirs=1",
                "Host": "theirs.example",
                "OpenAI-Organization": "theirs",
                "OpenAI-Project": "theirs",
                "ChatGPT-Account-ID": "theirs",
                "X-HTTP-Method-Override": "theirs",
                "X-Forwarded-For": "theirs",
                "Proxy-Authorization": "theirs",
                "Connection": "x-codex-named, keep-alive",
                "x-codex-named": "theirs",
            }
            sent = inside.post(headers={**ours, **theirs})
            async with sent as response:
                assert response.status == 200
        [(method, path, headers)] = api.asked
        assert (method, path) == ("POST", "/v1/responses")
        assert "theirs" not in str(headers)
        assert headers["authorization"] == f"Bearer {CANARY}"
        assert headers["host"] == api.base_url.split("/")[2]
        assert ours.items() <= {"User-Agent": headers.pop("user-agent"), **headers}.items()


async def test_without_a_key_to_add_none_is_sent() -> None:
    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        theirs = {"Authorization": "Bearer theirs"}
        async with inside.get(headers=theirs) as response:
            assert response.status == 200
        assert "authorization" not in api.asked[0][2]


async def test_a_chunk_arrives_before_the_next_is_sent() -> None:
    arrived = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await arrived.wait()
        await response.write(b"data: second\n\n")
        return response

    async with (
        upstream(slow) as api,
        door(ProxySettings(base_url=api.base_url)) as inside,
        inside.post() as response,
    ):
        assert await response.content.readany() == b"data: first\n\n"
        assert inside.served().active == 1
        arrived.set()
        assert await response.content.read() == b"data: second\n\n"


async def test_a_request_goes_up_as_it_comes() -> None:
    begun = asyncio.Event()

    async def taking(request: web.Request) -> web.StreamResponse:
        first = await request.content.readany()
        begun.set()
        rest = await request.content.read()
        return web.Response(body=first + b"|" + rest)

    async def pieces() -> object:
        yield b"one"
        await begun.wait()
        yield b"two"

    async with (
        upstream(taking) as api,
        door(ProxySettings(base_url=api.base_url)) as inside,
        inside.post(pieces()) as response,
    ):
        assert await response.read() == b"one|two"


async def test_what_the_container_does_not_take_is_not_read_from_the_upstream() -> None:
    stuck = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(256):
            waited = asyncio.get_running_loop().call_later(0.5, stuck.set)
            await response.write(bytes(1 << 20))
            waited.cancel()
        return response

    async with upstream(endless) as api, door(ProxySettings(base_url=api.base_url)) as inside:
        async with inside.post() as response:
            # 256 MiB are in nobody's buffers: the upstream has to wait.
            await stuck.wait()
            async with inside.session.get(f"{inside.url}/models?client_version=1") as other:
                assert other.status == 200
            response.close()
        await api.gone.wait()


async def test_the_upstream_is_told_when_the_client_goes_and_others_go_on() -> None:
    async with ScriptedModel() as model, door(ProxySettings(base_url=model.base_url)) as inside:
        said = prompt("mock:stall after=1")
        first = inside.post(None, json=said)
        second = inside.post(None, json=said)
        async with first as going, second as staying:
            await going.content.readany()
            await staying.content.readany()
            going.close()
            await until(lambda: "gone" in [r.outcome for r in model.requests])
            model.release()
            assert b"response.completed" in await staying.content.read()
        assert sorted(r.outcome for r in model.requests) == ["completed", "gone"]
        assert inside.served().requests == {"completed": 1, "gone": 1}
        assert inside.served().active == 0


async def test_an_upstream_that_is_away_is_told_as_such_until_it_is_back(tmp_path: Path) -> None:
    async with upstream() as api:
        url = api.base_url
    port = int(url.split(":")[2].split("/")[0])
    async with door(ProxySettings(base_url=url, key_file=key_file(tmp_path))) as inside:
        async with inside.get() as response:
            assert response.status == 502
            assert await code(response) == "upstream_unreachable"
        back = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        async with back, inside.post() as response:
            assert response.status == 502
        assert inside.served().requests == {"unreachable": 2}


async def test_an_upstream_that_says_nothing_is_given_up() -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with upstream(silent) as api:
        settings = ProxySettings(base_url=api.base_url, idle_timeout_seconds=0.2)
        async with door(settings) as inside, inside.post() as response:
            assert response.status == 504
            assert await code(response) == "upstream_timeout"
        await api.gone.wait()


async def test_a_stream_the_upstream_cuts_is_cut_for_the_client_as_well() -> None:
    async with ScriptedModel() as model, door(ProxySettings(base_url=model.base_url)) as inside:
        said = prompt("mock:cut after=1")
        async with inside.post(None, json=said) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert inside.served().requests == {"cut": 1}


async def test_answers_of_the_model_api_pass_whatever_their_status(tmp_path: Path) -> None:
    async def limited(_request: web.Request) -> web.StreamResponse:
        headers = {"Retry-After": "7", "x-request-id": "r", "Set-Cookie": "a=1", "Alt-Svc": "x"}
        return web.json_response({"error": {"code": "rate"}}, status=429, headers=headers)

    async with (
        upstream(limited) as api,
        door(ProxySettings(base_url=api.base_url)) as inside,
        inside.post() as response,
    ):
        assert response.status == 429
        assert await response.json() == {"error": {"code": "rate"}}
        passed = {name: response.headers.get(name) for name in ("Retry-After", "x-request-id")}
        assert passed == {"Retry-After": "7", "x-request-id": "r"}
        assert not {"Set-Cookie", "Alt-Svc"} & set(response.headers)


async def test_redirects_are_not_followed_and_the_key_is_not_echoed(tmp_path: Path) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.Response(headers={"x-echo": request.headers["Authorization"]})
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/x"})

    async with upstream(elsewhere) as api:
        settings = ProxySettings(base_url=api.base_url, key_file=key_file(tmp_path))
        async with door(settings) as inside:
            sent = inside.post(allow_redirects=False)
            async with sent as response:
                assert response.status == 502
                assert await code(response) == "upstream_redirected"
                assert "Location" not in response.headers
            async with inside.get() as response:
                assert response.status == 200
                assert CANARY not in str(response.headers)
        assert len(api.asked) == 2


async def test_a_new_key_is_used_at_once_and_a_missing_one_is_told(tmp_path: Path) -> None:
    async with upstream() as api:
        file = key_file(tmp_path)
        async with door(ProxySettings(base_url=api.base_url, key_file=file)) as inside:

            async def ask() -> int:
                async with inside.get() as response:
                    if response.status == 503:
                        assert await code(response) == "credential_unavailable"
                    return response.status

            assert await ask() == 200
            fresh = tmp_path / "fresh"
            fresh.write_text("sk-second\n")
            fresh.rename(file)
            assert await ask() == 200
            for bad in ("", "two\nlines", "x" * 100_000, "schlüssel"):
                file.write_text(bad)
                assert await ask() == 503
            file.unlink()
            assert await ask() == 503
            file.write_text("sk-third")
            assert await ask() == 200
        sent = [headers["authorization"] for *_, headers in api.asked]
        assert sent == [f"Bearer {CANARY}", "Bearer sk-second", "Bearer sk-third"]


def self_signed(directory: Path) -> ssl.SSLContext:
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv += ["-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt")]
    require(shutil.which("openssl"), "openssl")
    subprocess.run(argv, capture_output=True, check=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return tls


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    async with upstream(ssl_context=tls) as api:
        settings = ProxySettings(base_url=api.base_url, key_file=key_file(tmp_path))
        async with door(settings) as inside, inside.get() as response:
            assert response.status == 502
            assert await code(response) == "upstream_unreachable"
        assert api.asked == []


async def test_too_many_requests_at_once_are_refused_and_the_others_go_on() -> None:
    release = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def held(_request: web.Request) -> web.StreamResponse:
        waiting.release()
        await release.wait()
        return web.Response()

    async with upstream(held) as api, door(ProxySettings(base_url=api.base_url)) as inside:

        async def ask() -> int:
            async with inside.get() as response:
                if response.status == 429:
                    assert await code(response) == "too_many_requests"
                return response.status

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask()) for _ in range(MAX_REQUESTS)]
            for _ in asked:
                await waiting.acquire()
            assert await ask() == 429
            release.set()
        assert {task.result() for task in asked} == {200}


async def test_a_body_past_the_limit_is_refused_whether_its_length_is_told_or_not() -> None:
    async def pieces() -> object:
        for _ in range(MAX_BODY // (1 << 20) + 1):
            yield bytes(1 << 20)

    async with upstream() as api, door(ProxySettings(base_url=api.base_url)) as inside:
        told = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        assert (await inside.raw(told.encode())).startswith(b"HTTP/1.1 413")
        assert api.asked == []
        async with inside.post(pieces()) as response:
            assert response.status == 413
            assert await code(response) == "request_too_large"
        async with inside.get() as response:
            assert response.status == 200


async def test_a_body_that_is_dribbled_is_given_up_however_steadily_it_comes() -> None:
    async def dribbled() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async with (
        upstream() as api,
        door(ProxySettings(base_url=api.base_url), upload_seconds=0.3) as inside,
    ):
        async with inside.post(dribbled()) as response:
            assert response.status == 408
            assert await code(response) == "request_timeout"
        await api.gone.wait()
        assert inside.served().active == 0
        assert inside.served().requests == {"refused": 1}


async def test_an_upstream_that_takes_a_body_slowly_is_not_held_against_the_container() -> None:
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
    body = Body(make_mocked_request("POST", "/", payload=content), 0.02)
    content.feed_data(b"0")
    taken = b""
    async for chunk in body.chunks():
        taken += chunk
        # Each alone takes longer than the container may.
        await asyncio.sleep(0.03)
        if len(taken) < 3:
            content.feed_data(b"1")
        else:
            content.feed_eof()
    assert taken == b"011"
    assert body.denied is None


async def test_compressed_bodies_pass_as_they_are(tmp_path: Path) -> None:
    packed = b"\x28\xb5\x2f\xfd no zstd"

    async def echo(request: web.Request) -> web.StreamResponse:
        # Not decoded by this server either: it is not zstd.
        assert request.headers["Content-Encoding"] == "x-packed"
        headers = {"Content-Encoding": "x-packed"}
        return web.Response(body=await request.read(), headers=headers)

    async with upstream(echo) as api, door(ProxySettings(base_url=api.base_url)) as inside:
        sent = inside.post(packed, headers={"Content-Encoding": "x-packed"})
        async with sent as response:
            assert response.headers["Content-Encoding"] == "x-packed"
            assert await response.read() == packed
