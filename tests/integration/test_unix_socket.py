"""The RPC over a real unix socket."""

import asyncio
import json
import os
import socket
import stat
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
import uvloop

from supervisor.api.connection import Limits
from supervisor.api.dialing import connect_unix
from supervisor.api.unix import UnixServer
from supervisor.buses.frames import encode_request
from supervisor.errors import ErrorCode, SupervisorError
from tests.integration.serving import SUBJECT, Serving, impostor, raw_peer, unix_server, until
from tests.unit.rpc.fakes import THREAD, FakeSubscription


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def unserved(path: Path) -> UnixServer:
    serving = Serving()
    return UnixServer(path, serving.service, Limits(), serving.meter, version="1")


async def everything(path: Path) -> None:
    """Calls, errors and streams on one connection."""
    async with unix_server(path) as serving:
        serving.agent.make_subscription = lambda: FakeSubscription([b"1", b'{"a":"\xc3\xa9"}'])
        async with connect_unix(path) as client:
            assert (client.account, client.server_version) == ("local", "1.2.3")
            host = await client.call(None, "hostStatus", {})
            assert isinstance(host, dict)
            assert host["version"] == "1.2.3"
            assert await client.call("p1", "pingProject", {}) == {"loadedThreads": 0}
            with pytest.raises(SupervisorError) as caught:
                await client.call("nobody", "projectStatus", {})
            assert caught.value.code is ErrorCode.PROJECT_UNKNOWN
            seen: list[object] = []
            async with aclosing(client.stream("p1", "subscribe", {})) as events:
                async for event in events:
                    seen.append(event)
                    if len(seen) == 2:
                        break
            assert seen == [1, {"a": "é"}]
            await until(lambda: serving.agent.subscriptions[0].closed)
        await until(lambda: serving.meter.open["unix"] == 0)


async def test_calls_errors_and_streams_share_a_connection(path: Path) -> None:
    await everything(path)


def test_it_works_on_uvloop_too(path: Path) -> None:
    uvloop.run(everything(path))


async def test_the_peers_principal_is_what_the_kernel_says(path: Path) -> None:
    async with unix_server(path) as serving:
        seen = []
        accept = serving.service.accept

        class Spy:
            def accept(self, principal, subject, payload):  # type: ignore[no-untyped-def]
                seen.append(principal)
                return accept(principal, subject, payload)

        server = UnixServer(path.with_name("spied"), Spy(), Limits(), serving.meter, version="1")
        server.bind()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.serve())
            async with connect_unix(path.with_name("spied")) as client:
                await client.call("p1", "projectStatus")
            task.cancel()
        [principal] = seen
        assert principal.account == "local"
        assert principal.source == f"unix:uid={os.getuid()},pid={os.getpid()}"


async def test_the_socket_is_its_owners_alone(path: Path) -> None:
    async with unix_server(path):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


async def test_the_file_goes_with_the_server(path: Path) -> None:
    async with unix_server(path):
        assert path.exists()
    assert not path.exists()


async def test_a_socket_file_nobody_answers_on_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with unix_server(path), connect_unix(path) as client:
        assert await client.call("p1", "pingProject")


async def test_a_socket_somebody_answers_on_is_left_to_him(path: Path) -> None:
    async with unix_server(path):
        with pytest.raises(SupervisorError) as caught:
            unserved(path).bind()
        assert caught.value.code is ErrorCode.ADDRESS_IN_USE
        async with connect_unix(path) as client:
            assert await client.call("p1", "pingProject")


def test_a_file_that_is_no_socket_is_not_touched(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(SupervisorError) as caught:
        unserved(path).bind()
    assert caught.value.code is ErrorCode.ADDRESS_IN_USE
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        unserved(tmp_path / ("x" * 110)).bind()
    assert caught.value.code is ErrorCode.SETTINGS_INVALID


async def test_no_supervisor_is_told_from_a_broken_one(path: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        async with connect_unix(path):
            pass
    assert caught.value.code is ErrorCode.SUPERVISOR_UNREACHABLE


async def test_a_thousand_pipelined_requests_are_all_answered(path: Path) -> None:
    async with unix_server(path) as serving, raw_peer(path) as peer:
        for n in range(1000):
            peer.ask(f"_INBOX.{n}", "pingProject")
        await peer.writer.drain()
        answers = [await peer.frame() for _ in range(1000)]
        assert {one["subject"] for one in answers} == {f"_INBOX.{n}" for n in range(1000)}
        failed = [one["headers"]["error"]["code"] for one in answers if one["payload"] is None]
        assert set(failed) <= {"overloaded"}
        assert len(serving.agent.asked) == 1000 - len(failed) >= 64


async def test_a_client_keeps_to_the_servers_limits_by_waiting(path: Path) -> None:
    async with unix_server(path, Limits(in_flight=4)) as serving, connect_unix(path) as client:
        answers = await asyncio.gather(*(client.call("p1", "pingProject") for _ in range(300)))
        assert answers == [{"loadedThreads": 0}] * 300
        assert not serving.meter.errors


@pytest.mark.parametrize(
    "junk",
    [b"junk\n", b"\n", b"\xff\xfe\x00\n", b"[]\n", b"{}\n", b'{"subject":' + b"[" * 50_000 + b"\n"],
)
async def test_junk_is_answered_and_the_connection_lives(path: Path, junk: bytes) -> None:
    async with unix_server(path) as serving, raw_peer(path) as peer:
        peer.writer.write(junk)
        answer = await peer.frame()
        assert answer["subject"] == "_ERROR"
        assert answer["headers"]["error"]["code"] == "bad_request"
        assert sum(serving.meter.refusals.values()) == 1
        peer.ask("_INBOX.a", "pingProject")
        assert (await peer.frame())["payload"] == {"loadedThreads": 0}


async def test_what_is_not_utf8_inside_params_never_reaches_the_agent(path: Path) -> None:
    request = encode_request(
        SUBJECT, "sendMessage", {"threadId": THREAD, "text": "HERE"}, "_INBOX.a"
    )
    async with unix_server(path) as serving, raw_peer(path) as peer:
        peer.writer.write(request.replace(b"HERE", b"\xff") + b"\n")
        assert (await peer.frame())["headers"]["error"]["code"] == "bad_request"
        peer.writer.write(request.replace(b"HERE", b"\\ud800") + b"\n")
        assert (await peer.frame())["headers"]["error"]["code"] == "bad_request"
        assert not serving.agent.acted


async def test_a_frame_past_the_limit_is_refused_and_the_next_one_read(path: Path) -> None:
    limits = Limits(max_frame_bytes=10_000)
    async with unix_server(path, limits) as serving, raw_peer(path) as peer:
        peer.writer.write(b"x" * 100_000 + b"\n")
        assert (await peer.frame())["headers"]["error"]["code"] == "too_large"
        assert serving.meter.refusals == {("unix", "too_large"): 1}
        peer.ask("_INBOX.a", "pingProject")
        assert (await peer.frame())["subject"] == "_INBOX.a"


async def test_a_client_refuses_a_frame_its_server_would_not_take(path: Path) -> None:
    limits = Limits(max_frame_bytes=10_000)
    async with unix_server(path, limits), connect_unix(path) as client:
        with pytest.raises(SupervisorError) as caught:
            await client.call("p1", "sendMessage", {"threadId": THREAD, "text": "x" * 20_000})
        assert caught.value.code is ErrorCode.TOO_LARGE
        assert await client.call("p1", "pingProject")


async def test_half_a_frame_and_a_disconnect_harm_nobody(path: Path) -> None:
    async with unix_server(path) as serving, connect_unix(path) as client:
        async with raw_peer(path) as peer:
            peer.writer.write(encode_request(SUBJECT, "pingProject", {}, "_INBOX.a")[:40])
            await peer.writer.drain()
        await until(lambda: serving.meter.open["unix"] == 1)
        assert not serving.agent.asked
        assert await client.call("p1", "pingProject")


async def test_a_frame_in_many_pieces_is_one_frame(path: Path) -> None:
    async with unix_server(path), raw_peer(path) as peer:
        for byte in encode_request(SUBJECT, "pingProject", {}, "_INBOX.a") + b"\n":
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
        assert (await peer.frame())["payload"] == {"loadedThreads": 0}


async def test_a_peer_that_never_reads_its_stream_slows_only_itself(path: Path) -> None:
    async with unix_server(path) as serving, raw_peer(path) as deaf:
        serving.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        deaf.stop_reading()
        deaf.ask("_INBOX.s", "subscribe")
        await deaf.writer.drain()
        await until(lambda: len(serving.agent.subscriptions) == 1)
        async with connect_unix(path) as client:
            subscription = serving.agent.subscriptions[0]
            taken = -1
            while taken != subscription.taken:
                taken = subscription.taken
                for _ in range(50):
                    assert await client.call("p1", "pingProject")
            assert 0 < taken < 2000


async def test_a_peer_that_never_reads_is_dropped_in_the_end(path: Path) -> None:
    async with unix_server(path, Limits(write_timeout=0.05)) as serving, raw_peer(path) as deaf:
        serving.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        deaf.stop_reading()
        deaf.ask("_INBOX.s", "subscribe")
        await deaf.writer.drain()
        await until(lambda: serving.meter.open["unix"] == 0)
        assert serving.agent.subscriptions[0].closed
        assert serving.meter.refusals == {("unix", "slow_peer"): 1}


async def test_a_flood_of_junk_nobody_reads_the_answers_of_stops_being_read(path: Path) -> None:
    async with unix_server(path, Limits(refusals=4)) as serving, raw_peer(path) as peer:
        peer.writer.write(b"junk\n" * 20_000)
        peer.ask("_INBOX.a", "pingProject")
        answers = [await peer.frame() for _ in range(20_001)]
        assert answers[-1]["payload"] == {"loadedThreads": 0}
        assert serving.meter.refusals == {("unix", "junk"): 20_000}


async def test_a_connection_too_many_is_told_and_closed(path: Path) -> None:
    async with unix_server(path, Limits(connections=1)) as serving, connect_unix(path) as client:
        with pytest.raises(SupervisorError) as caught:
            async with connect_unix(path):
                pass
        assert caught.value.code is ErrorCode.OVERLOADED
        assert serving.meter.refusals == {("unix", "overloaded"): 1}
        assert await client.call("p1", "pingProject")


async def test_a_stopped_server_is_a_lost_connection_to_calls_and_streams(path: Path) -> None:
    async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:
        async with unix_server(path) as serving:
            serving.agent.gate = asyncio.Event()
            client = await clients.enter_async_context(connect_unix(path))
            call = group.create_task(failure(client.call("p1", "pingProject")))
            stream = group.create_task(failure(anext(client.stream("p1", "subscribe"))))
            await until(lambda: len(serving.agent.asked) + len(serving.agent.subscribed) == 2)
        assert await call is await stream is ErrorCode.CONNECTION_LOST
        assert await failure(client.call("p1", "pingProject")) is ErrorCode.CONNECTION_LOST


async def failure(awaitable: object) -> ErrorCode:
    with pytest.raises(SupervisorError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code


async def test_a_client_that_does_not_read_a_stream_bounds_what_it_holds(path: Path) -> None:
    async with unix_server(path) as serving, connect_unix(path) as client:
        serving.agent.make_subscription = lambda: FakeSubscription([], endless=True)
        async with aclosing(client.stream_raw("p1", "subscribe", {})) as events:
            first = json.loads(await anext(events))
            await until(lambda: serving.agent.subscriptions[0].taken > 4000)
            settled = -1
            async with connect_unix(path) as another:
                while settled != serving.agent.subscriptions[0].taken:
                    settled = serving.agent.subscriptions[0].taken
                    for _ in range(50):
                        await another.call("p1", "pingProject")
            seen = [first["n"]] + [json.loads(await anext(events))["n"] for _ in range(settled)]
            assert seen == list(range(1, settled + 2))


@pytest.mark.parametrize("junk", [b"junk\n", b'{"subject":"_HELLO","payload":{}}\n', b"\xff\n"])
async def test_a_server_that_is_none_is_a_clear_error(path: Path, junk: bytes) -> None:
    async with impostor(path, junk):
        with pytest.raises(SupervisorError) as caught:
            async with connect_unix(path):
                pass
    assert caught.value.code is ErrorCode.CONNECTION_LOST


async def test_a_server_that_says_nothing_is_unreachable(path: Path) -> None:
    async with impostor(path):
        with pytest.raises(SupervisorError) as caught:
            async with connect_unix(path, timeout=0.05):
                pass
    assert caught.value.code is ErrorCode.SUPERVISOR_UNREACHABLE


HELLO = b'{"subject":"_HELLO","payload":{"account":"local","server":"1","inFlight":9,"streams":9,'
HELLO += b'"maxFrameBytes":9999}}\n'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"junk", ErrorCode.CONNECTION_LOST),
        (b'{"subject":"_INBOX.1","headers":{"seq":7},"payload":1}', ErrorCode.CONNECTION_LOST),
        (
            b'{"subject":"_INBOX.1","headers":{"error":{"code":"brand_new","message":"m"}}}',
            ErrorCode.INTERNAL,
        ),
        (
            b'{"subject":"_ERROR","headers":{"error":{"code":"bad_request","message":"m"}}}',
            ErrorCode.BAD_REQUEST,
        ),
    ],
)
async def test_what_a_server_should_not_say_fails_the_call_clearly(
    path: Path, answer: bytes, code: ErrorCode
) -> None:
    late = b'{"subject":"_INBOX.99","payload":"late"}\n'
    async with impostor(path, HELLO, late + answer + b"\n"), connect_unix(path) as client:
        assert await failure(client.call("p", "m")) is code
