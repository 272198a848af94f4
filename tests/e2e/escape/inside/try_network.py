"""Ways out by a socket: to the machine, to its services, to anybody."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.e2e.escape.inside import calls
from tests.e2e.escape.inside.attempting import (
    PLAIN,
    PRIVILEGED,
    Facts,
    RefusedError,
    attempt,
    first_through,
)

_SECONDS = 2.0
_QUESTION = bytes.fromhex("1234010000010000000000000565786974730465786d700000010001")
"""A name server's: the address of a name."""
_VSOCK = 40


def _tcp(address: str, port: int) -> Callable[[], str]:
    def connect() -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(_SECONDS)
            one.connect((address, port))
            return f"connected to {address}:{port}"

    return connect


def _udp(address: str, port: int) -> Callable[[], str]:
    """That it leaves is enough: an answer would take somebody there."""

    def send() -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.settimeout(_SECONDS)
            one.connect((address, port))
            one.send(_QUESTION)
            return f"sent to {address}:{port}"

    return send


def _any(make: Callable[[str, int], Callable[[], str]], where: Iterable[tuple[str, int]]) -> str:
    return first_through((f"{address}", make(address, port)) for address, port in where)


# -- addresses


@attempt(PLAIN)
def ask_the_metadata_service(facts: Facts) -> str:
    return _any(_tcp, [("169.254.169.254", 80), ("169.254.170.2", 80), ("fd00:ec2::254", 80)])


@attempt(PLAIN)
def connect_to_the_gateway(facts: Facts) -> str:
    return _any(_tcp, [(address, 80) for address in facts["gateways"]])


@attempt(PLAIN)
def connect_to_the_hosts_own_addresses(facts: Facts) -> str:
    return _any(_tcp, [(address, facts["port"]) for address in facts["addresses"]])


@attempt(PLAIN)
def connect_to_the_hosts_loopback(facts: Facts) -> str:
    return _any(_tcp, [(address, facts["port"]) for address in ("127.0.0.1", "::1", "0.0.0.0")])


@attempt(PLAIN)
def connect_to_somebody_over_ipv4(facts: Facts) -> str:
    return _any(_tcp, [(facts["somebody"], port) for port in (443, 80, 22)])


@attempt(PLAIN)
def connect_to_somebody_over_ipv6(facts: Facts) -> str:
    return _any(_tcp, [(facts["somebody6"], port) for port in (443, 80)])


@attempt(PLAIN)
def send_a_datagram_over_ipv4(facts: Facts) -> str:
    return _any(_udp, [(facts["somebody"], port) for port in (53, 443)])


@attempt(PLAIN)
def send_a_datagram_over_ipv6(facts: Facts) -> str:
    return _any(_udp, [(facts["somebody6"], 53)])


@attempt(PLAIN)
def ask_a_name_server(facts: Facts) -> str:
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    named = [line[1] for line in lines if line[:1] == ["nameserver"]]
    known = [facts["somebody"], "169.254.169.253", *named]
    # The container's own loopback is nobody's.
    outside = [address for address in known if not address.startswith(("127.", "::1"))]
    return _any(_udp, [(address, 53) for address in outside])


@attempt(PLAIN)
def broadcast_to_the_neighbours(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return f"{one.sendto(b'anybody?', ('255.255.255.255', 9))} bytes"


@attempt(PRIVILEGED)
def send_what_no_stack_has_made(facts: Facts) -> str:
    kinds = (
        ("packet", socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        ("raw IPv4", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        ("raw IPv6", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    )

    def way(family: int, kind: int, protocol: int) -> Callable[[], str]:
        def make() -> str:
            socket.socket(family, kind, protocol).close()
            return "a socket"

        return make

    return first_through((name, way(*kind)) for name, *kind in kinds)


# -- what is not of a network


@attempt(PLAIN)
def connect_to_an_abstract_socket_of_the_host(facts: Facts) -> str:
    names = [facts["abstract"], "/run/dbus", "/containerd-shim", "/tmp/.X11-unix/X0"]

    def way(name: str) -> Callable[[], str]:
        def connect() -> str:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.connect("\0" + name)
            return "connected"

        return connect

    return first_through((name, way(name)) for name in names)


@attempt(PLAIN)
def make_a_socket_to_the_hypervisor(facts: Facts) -> str:
    """AF_VSOCK belongs to no network namespace: who has such a socket reaches the machine's host
    and every service here that listens on one. Nothing but our own checks stands behind it."""
    with socket.socket(_VSOCK, socket.SOCK_STREAM) as one:
        one.bind((0xFFFFFFFF, 0xFFFFFFFF))
        return f"{one.getsockname()} is bound"


@attempt(PLAIN)
def make_one_through_the_gate_of_32_bits(facts: Facts) -> str:
    """socketcall hides the family behind a pointer, where seccomp cannot look."""
    if platform.machine() != "x86_64":
        raise RefusedError("this processor has no such gate")
    low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
    where = ctypes.addressof(ctypes.c_char.from_buffer(low))
    arguments = where + 256
    low[256:268] = struct.pack("<III", _VSOCK, socket.SOCK_STREAM, 0)
    # push rbx; mov eax, 102; mov ebx, 1 (socket); mov ecx, arguments; int 0x80; pop rbx; ret
    code = b"\x53\xb8\x66\x00\x00\x00\xbb\x01\x00\x00\x00\xb9" + struct.pack("<I", arguments)
    low[0 : len(code) + 4] = code + b"\xcd\x80\x5b\xc3"
    result = ctypes.CFUNCTYPE(ctypes.c_int)(where)()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return f"descriptor {result} is one"


@attempt(PRIVILEGED)
def give_oneself_an_address(facts: Facts) -> str:
    """By netlink: what follows would be a link and a route."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
    for kind in (2, 1):
        body += struct.pack("=HH4s", 8, kind, socket.inet_aton("192.0.2.77"))
    header = struct.pack("=IHHII", 16 + len(body), 20, 0x405, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        one.settimeout(_SECONDS)
        one.send(header + body)
        answer = one.recv(4096)
    code = -struct.unpack_from("=i", answer, 16)[0]
    if code not in (0, errno.EEXIST):
        raise OSError(code, os.strerror(code))
    return "192.0.2.77 is ours"


@attempt(PRIVILEGED)
def make_a_tunnel(facts: Facts) -> str:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"escape0", 0x1001))
    return "an interface of ours"


@attempt(unshown="a namespace of one's own has no way out in any container")
def reach_out_as_the_admin_of_ones_own_network(facts: Facts) -> str:
    calls.be_root_of_a_namespace(calls.NEW_NET)
    where = [
        (facts["somebody"], 443),
        *((address, facts["port"]) for address in facts["addresses"]),
    ]
    return _any(_tcp, [*where, ("127.0.0.1", facts["port"])])
