"""The proxy's control socket: what it holds, and what it refuses."""

import array
import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor.clock import SystemClock
from supervisor.credentials import messages
from supervisor.credentials.calling import Call
from supervisor.credentials.packets import KIND, MAX_PACKET, Channel, dial
from supervisor.credentials.proxy import Proxy
from supervisor.credentials.seat import Seat
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.settings_groups import ProxySettings
from tests.conftest import require
from tests.contract.scripted import until
from tests.integration.proxy.boxes import run_as_stranger, strangers_python
from tests.integration.proxy.doors import DEADLINE, listener

SETTINGS = ProxySettings(base_url="http://127.0.0.1:9/v1")


@asynccontextmanager
async def proxy(directory: Path, idle_seconds: float | None = None) -> AsyncIterator[Path]:
    """One that runs; its socket."""
    path = directory / "proxy" / "proxy.sock"
    told = asyncio.Event()
    made = Proxy(SETTINGS, path, {}, SystemClock(), idle_seconds=idle_seconds)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(made.run(told))
        try:
            yield path
        finally:
            told.set()


@asynccontextmanager
async def calling(path: Path) -> AsyncIterator[Call]:
    channel = dial(path)
    call = Call(channel)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(call.read())
        try:
            yield call
        finally:
            reading.cancel()
    channel.close()


def opening(marker: str) -> messages.Open:
    return messages.Open(project="p", generation=1, marker=marker)


async def hold(call: Call, marker: str, pid: int | None = None) -> int:
    """Have it serve a listener on loopback; the port."""
    pidfd = os.pidfd_open(pid or os.getpid())
    with listener() as made:
        await call.tell(opening(marker), [pidfd, made.fileno()])
        os.close(pidfd)
        return int(made.getsockname()[1])


async def answers(port: int) -> bool:
    """Whether anybody accepts there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_opened_is_served_until_it_is_closed(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        port = await hold(call, "p.1")
        assert await call.markers() == {"p.1"}
        assert await answers(port)
        welcome = await call.hello()
        assert (welcome.pid, welcome.served, welcome.credential) == (os.getpid(), 1, False)
        await call.tell(messages.Close("p.1"))
        await call.tell(messages.Close("nobody"))
        assert await call.markers() == set()
        assert not await answers(port)


async def test_one_that_is_served_stays_as_it_is(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        first = await hold(call, "p.1")
        second = await hold(call, "p.1")
        assert await answers(first)
        assert not await answers(second)


async def test_what_is_served_stays_when_the_supervisor_goes(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path:
        async with calling(path) as call:
            port = await hold(call, "p.1")
        async with calling(path) as call:
            assert await call.markers() == {"p.1"}
            assert await answers(port)


async def test_the_end_of_the_container_closes_its_listener(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        with subprocess.Popen(["sleep", "600"]) as process:  # noqa: ASYNC220
            port = await hold(call, "p.1", process.pid)
            assert await answers(port)
            process.kill()
        while await call.markers():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not await answers(port)


async def test_a_marker_whose_container_has_ended_is_free_for_another(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        with subprocess.Popen(["sleep", "600"]) as process:  # noqa: ASYNC220
            await hold(call, "p.1", process.pid)
            process.kill()
        port = await hold(call, "p.1")
        await call.hello()
        assert await call.markers() == {"p.1"}
        assert await answers(port)


async def test_many_are_listed_by_pages(tmp_path: Path) -> None:
    names = {f"p.{number}" for number in range(messages.PAGE * 2 + 3)}
    async with proxy(tmp_path) as path, calling(path) as call:
        for name in names:
            await hold(call, name)
        assert await call.markers() == names


JUNK = [
    b"{",
    b"null",
    b"\xff\xfe",
    b"[]",
    b'{"type":"frob"}',
    b'{"type":"open"}',
    b'{"type":"open","project":1,"generation":1,"marker":"m"}',
    b'{"type":"open","project":"p","generation":1,"marker":""}',
    b'{"type":"close"}',
    b"x" * MAX_PACKET,
]


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_is_refused_and_the_connection_goes_on(tmp_path: Path, junk: bytes) -> None:
    async with proxy(tmp_path) as path:
        channel = dial(path)
        channel.send(junk)
        assert (await refusal(channel)).code == ErrorCode.BAD_REQUEST
        channel.send(b'{"type":"hello"}')
        assert b"welcome" in await received(channel)
        channel.close()


async def test_too_large_a_packet_and_too_many_descriptors_are_refused(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path:
        channel = dial(path)
        channel.send(b'{"type":"hello"}')
        await received(channel)
        before = descriptors()
        channel.send(b'"' + b"x" * MAX_PACKET + b'"')
        assert (await refusal(channel)).code == ErrorCode.TOO_LARGE
        channel.send(b'{"type":"hello"}', [0] * 50)
        assert (await refusal(channel)).code == ErrorCode.TOO_LARGE
        assert descriptors() == before
        channel.close()


def a_file() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def a_pidfd() -> int:
    return os.pidfd_open(os.getpid())


def listening(family: int, kind: int, address: object) -> int:
    made = socket.socket(family, kind)
    made.bind(address)  # type: ignore[arg-type]
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made.detach()


WRONG: dict[str, Callable[[], list[int]]] = {
    "none": list,
    "a pidfd alone": lambda: [a_pidfd()],
    "no pidfd": lambda: [a_file(), listener().detach()],
    "a listener first": lambda: [listener().detach(), a_pidfd()],
    "a file for a listener": lambda: [a_pidfd(), a_file()],
    "a file for the second": lambda: [a_pidfd(), listener().detach(), a_file()],
    "two pidfds": lambda: [a_pidfd(), a_pidfd()],
    "no listener": lambda: [a_pidfd(), socket.socket().detach()],
    "UDP": lambda: [
        a_pidfd(), listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
    ],
    "unix": lambda: [a_pidfd(), listening(socket.AF_UNIX, socket.SOCK_STREAM, "")],
    "all addresses": lambda: [
        a_pidfd(), listening(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0))
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_descriptors_that_are_something_else_are_refused(tmp_path: Path, what: str) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        await call.hello()
        before = descriptors()
        wrong = WRONG[what]()
        with pytest.raises(SupervisorError) as raised:
            await call.tell(opening("p.1"), wrong)
        for each in wrong:
            os.close(each)
        assert raised.value.code is ErrorCode.BAD_REQUEST
        assert descriptors() == before
        assert await answers(await hold(call, "p.1"))


async def test_a_peer_that_takes_no_answers_is_dropped_and_harms_nobody(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path:
        deaf = dial(path)
        with pytest.raises(SupervisorError):  # noqa: PT012
            while True:
                try:
                    deaf.send(b'{"type":"hello"}')
                except SupervisorError as error:
                    if "temporarily" not in error.message:
                        raise
                await asyncio.sleep(0)
        deaf.close()
        async with calling(path) as call:
            await call.hello()


async def test_descriptors_that_come_without_a_message_are_closed(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        await call.hello()
        before = descriptors()
        with socket.socket(socket.AF_UNIX, KIND) as sock:
            sock.connect(str(path))
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 0]))]
            sock.sendmsg([b""], control)
            assert await asyncio.to_thread(sock.recv, 1) == b""
        await call.hello()
        assert descriptors() == before


async def test_another_users_process_is_refused() -> None:
    require(os.geteuid() == 0, "root, to be somebody else")
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
    code += "s.connect(sys.argv[1]); print(s.recv(1000))"
    # Not below tmp_path: nobody else is let in there.
    with tempfile.TemporaryDirectory() as directory:
        async with proxy(Path(directory)) as path:
            # As if the modes did not hold.
            for each in (path, path.parent, Path(directory)):
                each.chmod(0o777)
            python = strangers_python()
            said = await asyncio.to_thread(
                run_as_stranger, python, "-I", "-S", "-c", code, str(path)
            )
            assert "forbidden" in said.stdout, said.stderr


async def test_there_is_one_proxy_a_socket_and_a_dead_ones_is_taken_over(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with pytest.raises(SupervisorError) as raised:
            Seat(path)
        assert raised.value.code is ErrorCode.ADDRESS_IN_USE
    assert not path.exists()
    with socket.socket(socket.AF_UNIX, KIND) as dead:
        dead.bind(str(path))
    async with proxy(tmp_path) as path, calling(path) as call:
        await call.hello()


async def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "proxy" / "proxy.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(SupervisorError) as raised:
        Seat(path)
    assert raised.value.code is ErrorCode.ADDRESS_IN_USE
    assert path.read_text() == "mine"


async def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "proxy" / "proxy.sock"
    path.parent.mkdir()
    path.parent.chmod(0o755)
    with pytest.raises(SupervisorError) as raised:
        Seat(path)
    assert raised.value.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    with pytest.raises(SupervisorError) as raised:
        Seat(tmp_path / ("x" * 200) / "proxy.sock")
    assert raised.value.code is ErrorCode.SETTINGS_INVALID


async def test_one_that_nobody_needs_any_more_ends_itself(tmp_path: Path) -> None:
    async with proxy(tmp_path, idle_seconds=0.1) as path:
        async with calling(path) as call:
            with subprocess.Popen(["sleep", "600"]) as process:  # noqa: ASYNC220
                await hold(call, "p.1", process.pid)
                process.kill()
            while await call.markers():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await until(lambda: not path.exists())


async def test_one_that_is_told_to_end_does(tmp_path: Path) -> None:
    async with proxy(tmp_path) as path, calling(path) as call:
        port = await hold(call, "p.1")
        await call.tell(messages.End())
        await call.lost.wait()
        await until(lambda: not path.exists())
        assert not await answers(port)


async def received(channel: Channel) -> bytes:
    packet = await channel.receive()
    assert packet is not None
    with packet:
        return packet.data()


async def refusal(channel: Channel) -> messages.Refused:
    answer = msgspec.json.decode(await received(channel), type=messages.Answer)
    assert isinstance(answer, messages.Refused)
    return answer
