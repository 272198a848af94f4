"""The CONNECT proxy: where tunnels lead, and where they do not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from supervisor.credentials.connect import MAX_HEAD, Stream, Tunnels
from supervisor.credentials.tally import MAX_TUNNELS
from supervisor.settings_groups import ProxySettings
from tests.integration.proxy.doors import Door, door

PUBLIC = "93.184.216.34"
ALLOWED = ("index.example:443", "*.example.org:443", "bad.example:443", "[]:1")[:3]


@dataclass
class Net:
    """A net of names and addresses; what is dialled is a server on loopback."""

    names: dict[str, Sequence[str]] = field(default_factory=lambda: {"index.example": [PUBLIC]})
    dialled: list[tuple[str, int]] = field(default_factory=list)
    port: int = 0

    async def resolve(self, host: str, _port: int) -> Sequence[str]:
        # The next answer is another one: nobody may ask twice.
        found, self.names[host] = self.names.get(host, []), ["127.0.0.1"]
        if not found:
            raise OSError("no such name")
        return found

    async def dial(self, address: str, port: int) -> Stream:
        self.dialled.append((address, port))
        if address.endswith(".1"):
            raise ConnectionRefusedError
        return await asyncio.open_connection("127.0.0.1", self.port)


async def until_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers once the other side has said all."""
    said = await reader.read()
    writer.write(b"all of " + said)
    writer.close()


@asynccontextmanager
async def serving(net: Net, idle_seconds: float = 60.0) -> AsyncIterator[Door]:
    settings = ProxySettings(connect_allow=ALLOWED, idle_timeout_seconds=idle_seconds)
    tunnels = Tunnels(settings, resolve=net.resolve, dial=net.dial)
    server = await asyncio.start_server(until_eof, "127.0.0.1", 0)
    async with server, door(settings, tunnels) as inside:
        net.port = server.sockets[0].getsockname()[1]
        yield inside


async def ask(inside: Door, target: str, more: bytes = b"") -> tuple[bytes, Stream]:
    """The head of the answer, and what follows it."""
    stream = await asyncio.open_connection("127.0.0.1", inside.connect_port)
    stream[1].write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode() + more)
    return await stream[0].readuntil(b"\r\n\r\n"), stream


async def refusal(inside: Door, target: str) -> tuple[int, bytes]:
    """Status and body."""
    head, (reader, writer) = await ask(inside, target)
    body = await reader.read()
    writer.close()
    return int(head.split()[1]), body


async def test_a_tunnel_carries_both_ways_and_is_closed_by_halves() -> None:
    net = Net()
    async with serving(net) as inside:
        head, (reader, writer) = await ask(inside, "index.example:443", b"it ")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"that is said")
        writer.write_eof()
        assert await reader.read() == b"all of it that is said"
        writer.close()
        assert net.dialled == [(PUBLIC, 443)]
        assert inside.served().requests == {"tunnel": 1}


async def test_a_pattern_is_for_names_below_it_alone() -> None:
    net = Net({"a.b.example.org": [PUBLIC], "example.org": [PUBLIC], "notexample.org": [PUBLIC]})
    async with serving(net) as inside:
        head, (_, writer) = await ask(inside, "A.b.Example.org.:443")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.close()
        for other in ("example.org", "notexample.org", "example.org.evil.example"):
            assert (await refusal(inside, f"{other}:443"))[0] == 403
        assert len(net.dialled) == 1


@pytest.mark.parametrize(
    "target",
    ["index.example:80", "other.example:443", "169.254.169.254:80", "127.0.0.1:443", "[::1]:443"],
)
async def test_a_host_that_is_not_allowed_is_not_even_looked_up(target: str) -> None:
    net = Net()
    async with serving(net) as inside:
        status, body = await refusal(inside, target)
        assert (status, b"host_not_allowed" in body) == (403, True)
        assert net.names == {"index.example": [PUBLIC]}
        assert inside.served().requests == {"tunnel_refused": 1}


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 10.1.2.3 169.254.169.254 192.168.1.1 0.0.0.0 224.0.0.1 ::1 fe80::1%eth0 fd00::1
    ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe""".split(),
)
async def test_a_name_that_leads_inwards_is_refused_after_it_was_looked_up(address: str) -> None:
    net = Net({"bad.example": [address]})
    async with serving(net) as inside:
        status, body = await refusal(inside, "bad.example:443")
        assert (status, b"address_not_allowed" in body) == (403, True)
        assert net.dialled == []


async def test_a_name_that_changes_its_address_is_dialled_at_the_one_that_was_checked() -> None:
    net = Net({"bad.example": [PUBLIC]})
    async with serving(net) as inside:
        head, (_, writer) = await ask(inside, "bad.example:443")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert net.names["bad.example"] == ["127.0.0.1"]
        assert net.dialled == [(PUBLIC, 443)]


async def test_of_several_addresses_inward_ones_are_left_out_and_dead_ones_passed_over() -> None:
    net = Net({"bad.example": ["10.0.0.1", "93.184.216.1", PUBLIC]})
    async with serving(net) as inside:
        head, (_, writer) = await ask(inside, "bad.example:443")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert net.dialled == [("93.184.216.1", 443), (PUBLIC, 443)]


async def test_hosts_that_are_away_are_told_as_such() -> None:
    net = Net({"bad.example": ["93.184.216.1"]})
    async with serving(net) as inside:
        assert (await refusal(inside, "bad.example:443"))[0] == 502
        assert (await refusal(inside, "index.example.org:443"))[0] == 502
        assert (await refusal(inside, "x.example.org:443"))[0] == 502


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://index.example/ HTTP/1.1\r\nHost: index.example\r\n\r\n", b"405"),
        (b"CONNECT index.example HTTP/1.1\r\n\r\n", b"405"),
        (b"CONNECT index.example:443@evil:1 HTTP/1.1\r\n\r\n", b"405"),
        (b"CONNECT index.example:0 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT index.example:99999 HTTP/1.1\r\n\r\n", b"400"),
        (b"connect index.example:443 HTTP/1.1\r\n\r\n", b"405"),
        (b"CONNECT index.example:443 HTTP/2\r\n\r\n", b"405"),
        (bytes(range(1, 256)) + b"\r\n\r\n", b"405"),
        (b"CONNECT index.example:443 HTTP/1.1\r\nx: " + b"a" * MAX_HEAD + b"\r\n\r\n", b"431"),
        (b"CONNECT index.exa", b"400"),
    ],
)
async def test_anything_but_a_plain_connect_is_refused(request_: bytes, status: bytes) -> None:
    net = Net()
    async with serving(net) as inside:
        reader, writer = await asyncio.open_connection("127.0.0.1", inside.connect_port)
        writer.write(request_)
        writer.write_eof()
        assert (await reader.read()).split()[1] == status
        writer.close()
        assert net.dialled == []


async def test_a_tunnel_where_nobody_says_anything_is_closed() -> None:
    async with serving(Net(), idle_seconds=0.3) as inside:
        _, (reader, writer) = await ask(inside, "index.example:443")
        with_nothing = await reader.read()
        assert with_nothing == b""
        writer.close()


async def test_tunnels_past_the_bound_are_closed_and_the_others_go_on() -> None:
    net = Net({"index.example": [PUBLIC]})
    async with serving(net) as inside:
        streams = []
        for _ in range(MAX_TUNNELS):
            net.names["index.example"] = [PUBLIC]
            streams.append((await ask(inside, "index.example:443"))[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", inside.connect_port)
        assert await reader.read() == b""
        writer.close()
        streams[0][1].write_eof()
        assert await streams[0][0].read() == b"all of "
        for _, each in streams:
            each.close()
