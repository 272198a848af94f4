"""The RPC over a real WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvloop

from supervisor.api.authentication import Gate
from supervisor.api.connection import Limits
from supervisor.api.dialing import connect_websocket
from supervisor.buses.frames import encode_request
from supervisor.errors import ErrorCode, SupervisorError
from tests.integration.serving import SUBJECT, TOKEN, Serving, http_server, until
from tests.unit.rpc.fakes import THREAD, FakeSubscription

BEARER = {"Authorization": f"Bearer {TOKEN}"}
Socket = aiohttp.ClientWebSocketResponse[bool]


@asynccontextmanager
async def raw_socket(serving: Serving, **headers: str) -> AsyncIterator[Socket]:
    """Connected and greeted."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(serving.ws, headers=BEARER | headers, max_msg_size=0) as socket,
    ):
        assert (await frame(socket))["subject"] == "_HELLO"
        yield socket


async def frame(socket: Socket) -> dict[str, Any]:
    shown = json.loads(await socket.receive_str())
    assert isinstance(shown, dict)
    return shown


def request(inbox: str, method: str, **params: object) -> str:
    return encode_request(SUBJECT, method, params, inbox).decode()


async def everything() -> None:
    """Calls, errors and streams on one connection."""
    async with http_server() as serving:
        serving.agent.make_subscription = lambda: FakeSubscription([b"1", b'"\xc3\xa9"'])
        async with connect_websocket(serving.ws, TOKEN) as client:
            assert client.account == "local"
            assert await client.call("p1", "pingProject") == {"loadedThreads": 0}
            with pytest.raises(SupervisorError) as caught:
                await client.call("theirs", "projectStatus")
            assert caught.value.code is ErrorCode.PROJECT_UNKNOWN
            seen: list[object] = []
            async with aclosing(client.stream("p1", "subscribe")) as events:
                async for event in events:
                    seen.append(event)
                    if len(seen) == 2:
                        break
            assert seen == [1, "é"]
            await until(lambda: serving.agent.subscriptions[0].closed)
        await until(lambda: serving.meter.open["websocket"] == 0)


async def test_calls_errors_and_streams_share_a_connection() -> None:
    await everything()


def test_it_works_on_uvloop_too() -> None:
    uvloop.run(everything())


async def test_a_wrong_token_is_unauthenticated_to_our_client() -> None:
    async with http_server() as serving:
        with pytest.raises(SupervisorError) as caught:
            async with connect_websocket(serving.ws, "wrong-token-of-some-length"):
                pass
        assert caught.value.code is ErrorCode.UNAUTHENTICATED


async def test_no_server_is_unreachable() -> None:
    async with http_server() as serving:
        pass
    with pytest.raises(SupervisorError) as caught:
        async with connect_websocket(serving.ws, TOKEN):
            pass
    assert caught.value.code is ErrorCode.SUPERVISOR_UNREACHABLE


async def test_an_error_inside_the_clients_block_is_raised_as_it_is() -> None:
    async with http_server() as serving:
        with pytest.raises(KeyError):
            async with connect_websocket(serving.ws, TOKEN):
                raise KeyError


async def test_an_allowed_web_page_may_connect() -> None:
    origin = "https://ide.example.org"
    gate = Gate(token=TOKEN, origins=frozenset({origin}))
    async with http_server(gate=gate) as serving, raw_socket(serving, Origin=origin) as socket:
        await socket.send_str(request("_INBOX.a", "pingProject"))
        assert (await frame(socket))["payload"] == {"loadedThreads": 0}


@pytest.mark.parametrize("junk", ["junk", "", "[]", '{"subject":' + "[" * 50_000])
async def test_junk_is_answered_and_the_connection_lives(junk: str) -> None:
    async with http_server() as serving, raw_socket(serving) as socket:
        await socket.send_str(junk)
        assert (await frame(socket))["headers"]["error"]["code"] == "bad_request"
        assert serving.meter.refusals == {("websocket", "junk"): 1}
        await socket.send_str(request("_INBOX.a", "pingProject"))
        assert (await frame(socket))["subject"] == "_INBOX.a"


async def test_what_is_not_utf8_inside_params_never_reaches_the_agent() -> None:
    async with http_server() as serving, raw_socket(serving) as socket:
        message = encode_request(
            SUBJECT, "sendMessage", {"threadId": THREAD, "text": "HERE"}, "_INBOX.a"
        )
        await socket.send_frame(message.replace(b"HERE", b"\xff"), aiohttp.WSMsgType.TEXT)
        assert (await frame(socket))["headers"]["error"]["code"] == "bad_request"
        assert not serving.agent.acted


async def test_a_binary_message_ends_the_connection_with_1003() -> None:
    async with http_server() as serving, raw_socket(serving) as socket:
        await socket.send_bytes(request("_INBOX.a", "pingProject").encode())
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1003
        assert not serving.agent.asked


async def test_a_message_past_the_limit_ends_the_connection_with_1009() -> None:
    async with http_server(Limits(max_frame_bytes=10_000)) as serving:
        async with raw_socket(serving) as socket:
            await socket.send_str("x" * 100_000)
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1009
        await until(lambda: serving.meter.open["websocket"] == 0)
        assert serving.meter.refusals == {("websocket", "too_large"): 1}


async def test_a_foreign_account_in_the_subject_is_forbidden() -> None:
    async with http_server() as serving, raw_socket(serving) as socket:
        subject = "codex.project-theirs.account-other.api"
        message = encode_request(subject, "projectStatus", {}, "_INBOX.a")
        await socket.send_str(message.decode())
        assert (await frame(socket))["headers"]["error"]["code"] == "forbidden"


async def test_a_connection_too_many_is_refused() -> None:
    async with http_server(Limits(connections=1)) as serving, raw_socket(serving):
        with pytest.raises(SupervisorError):
            async with connect_websocket(serving.ws, TOKEN):
                pass
        assert serving.meter.refusals == {("http", "overloaded"): 1}


async def test_a_peer_that_never_reads_slows_only_itself_and_is_dropped() -> None:
    async with http_server(Limits(write_timeout=0.2)) as serving:
        serving.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        async with (
            raw_socket(serving) as deaf,
            connect_websocket(serving.ws, TOKEN) as client,
        ):
            await deaf.send_str(request("_INBOX.s", "subscribe"))
            while serving.meter.open["websocket"] == 2:
                assert await client.call("p1", "pingProject")
            assert serving.meter.refusals == {("websocket", "slow_peer"): 1}
            assert serving.agent.subscriptions[0].closed
            assert await client.call("p1", "pingProject")


async def test_a_stopped_server_is_a_lost_connection_to_calls_and_streams() -> None:
    async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:
        async with http_server() as serving:
            serving.agent.gate = asyncio.Event()
            client = await clients.enter_async_context(connect_websocket(serving.ws, TOKEN))
            call = group.create_task(failure(client.call("p1", "pingProject")))
            stream = group.create_task(failure(anext(client.stream("p1", "subscribe"))))
            await until(lambda: len(serving.agent.asked) + len(serving.agent.subscribed) == 2)
        assert await call is await stream is ErrorCode.CONNECTION_LOST
        assert await failure(client.call("p1", "pingProject")) is ErrorCode.CONNECTION_LOST


async def failure(awaitable: object) -> ErrorCode:
    with pytest.raises(SupervisorError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code
