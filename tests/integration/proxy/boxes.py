"""Processes in a network namespace of their own, and connections from inside of it."""

import asyncio
import contextlib
import ctypes
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from supervisor.credentials.link import ProxyLink
from supervisor.credentials.netns_join import CLONE_NEWNET
from supervisor.ids import Generation, ProjectId
from supervisor.ports.model_access import MODEL_PORT, Reached
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings
from tests.conftest import require
from tests.integration.proxy.doors import DEADLINE

STRANGER = 23456
"""A uid that is nobody's."""
UP = "ip link set lo up && echo up && exec sleep 600"


def run_as_stranger(*argv: str) -> "subprocess.CompletedProcess[str]":
    """As another user than root; where that is us already, as ourselves. OSError."""
    other = None if os.geteuid() else STRANGER
    groups: list[int] | None = None if os.geteuid() else []
    return subprocess.run(
        argv,
        user=other,
        group=other,
        extra_groups=groups,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def strangers_python() -> str:
    """A Python everybody may run: this one may be in root's home."""
    for program in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if run_as_stranger(program, "-c", "import tomllib").returncode == 0:
                return program
    require(False, "a Python 3.11 that everybody may run")
    raise AssertionError


@contextmanager
def box() -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a network namespace with loopback alone, as a container's init."""
    require(os.geteuid() == 0, "root, for network namespaces")
    require(shutil.which("ip") and shutil.which("unshare"), "iproute2 and unshare")
    argv = ["unshare", "--net", "sh", "-c", UP]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            require(process.stdout.readline() == b"up\n", "the right to make network namespaces")
            yield process
        finally:
            process.kill()


def connect_inside(pid: int, port: int) -> socket.socket:
    """A connection that was made inside of the namespace of `pid`. Raises OSError."""
    found: list[socket.socket | OSError] = []

    def run() -> None:
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            assert ctypes.CDLL(None).setns(network, CLONE_NEWNET) == 0
            found.append(socket.create_connection(("127.0.0.1", port), timeout=30))
        except OSError as error:
            found.append(error)
        finally:
            os.close(network)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def listens(pid: int, port: int) -> bool:
    """Whether anybody listens on the port of loopback, in the network namespace of `pid`."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(
        line.split()[1] == f"0100007F:{port:04X}" and line.split()[3] == "0A" for line in lines
    )


def reached(pid: int, marker: str = "p.1") -> Reached:
    return Reached(project=ProjectId("p"), generation=Generation(1), marker=marker, pid=pid)


@asynccontextmanager
async def link(directory: Path, settings: ProxySettings, **more: float) -> AsyncIterator[ProxyLink]:
    made = ProxyLink(settings, directory, environment(), rng=random.Random(1), **more)
    async with asyncio.timeout(DEADLINE), made:
        yield made


class Asked:
    """A model request from inside of a container, as it is answered."""

    def __init__(self, pid: int, prompt: str) -> None:
        content = [{"type": "input_text", "text": prompt}]
        body = json.dumps({"model": "m", "input": [{"role": "user", "content": content}]})
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        self._sock = connect_inside(pid, MODEL_PORT)
        self._sock.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        self.said = b""

    async def until(self, text: bytes) -> None:
        """Read until it was said."""
        while text not in self.said:
            more = await asyncio.to_thread(self._sock.recv, 65536)
            assert more, self.said
            self.said += more

    def close(self) -> None:
        self._sock.close()


async def turn(pid: int) -> None:
    """One that completes."""
    asked = Asked(pid, "mock:text n=2")
    await asked.until(b"response.completed")
    asked.close()
