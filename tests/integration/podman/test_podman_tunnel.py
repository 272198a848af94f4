"""From a real container, through the listener for CONNECT, to a host that is allowed.

The proxy runs as a unit would, in a network namespace whose loopback has a public address: nothing
leaves the machine.
"""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from supervisor.credentials.link import ProxyLink
from supervisor.ids import Generation, ProjectId
from supervisor.ports.model_access import CONNECT_PORT, Reached
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings
from tests.conftest import require
from tests.containers import Boxes
from tests.contract.scripted import Scripts, soon

PUBLIC = "93.184.216.34"
PORT = 8443
NET = f"ip link set lo up && ip addr add {PUBLIC}/32 dev lo"
SERVER = f"""
import socket
with socket.create_server(("{PUBLIC}", {PORT})) as listener:
    print("up", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"the index has " + connection.recv(100))
"""
# By the tunnel, and without it.
ASK = f"""
import socket, sys
def said(target, more=b""):
    try:
        with socket.create_connection(("127.0.0.1", {CONNECT_PORT}), timeout=20) as s:
            s.sendall(f"CONNECT {{target}} HTTP/1.1\\r\\nHost: {{target}}\\r\\n\\r\\n".encode())
            head = b""
            while not head.endswith(b"\\r\\n\\r\\n"):
                piece = s.recv(1)
                if not piece:
                    break
                head += piece
            s.sendall(more)
            rest = s.recv(100) if more else b""
            return head.split()[1].decode() + " " + rest.decode()
    except OSError as error:
        return type(error).__name__
print(said("{PUBLIC}:{PORT}", b"a package"))
print(said("{PUBLIC}:22"))
print(said("127.0.0.1:{PORT}"))
print(said("169.254.169.254:80"))
try:
    socket.create_connection(("{PUBLIC}", {PORT}), timeout=20)
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""


@contextmanager
def somewhere() -> Iterator[str]:
    """A network namespace with a server at the public address; the path by which it is entered."""
    require(shutil.which("ip") and shutil.which("nsenter"), "iproute2 and nsenter")
    argv = ["unshare", "--net", "sh", "-c", f'{NET} && exec "$0" -c "$1"', sys.executable, SERVER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            require(server.stdout.readline() == b"up\n", "the right to make network namespaces")
            yield f"/proc/{server.pid}/ns/net"
        finally:
            server.kill()


@asynccontextmanager
async def unit(namespace: str, root: Path, settings: ProxySettings) -> AsyncIterator[None]:
    """The proxy there, with those settings."""
    told = root / "unit" / "settings.json"
    told.parent.mkdir(mode=0o700)
    told.write_text(settings.model_dump_json(exclude={"socket"}))
    command = [sys.executable, "-m", "supervisor.cli.main", "proxy", "--settings", str(told)]
    process = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net={namespace}", *command, "--socket", str(settings.socket)),
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def said_inside(
    boxes: Boxes, scripts: Scripts, runtime: PodmanRuntime, settings: ProxySettings
) -> list[str]:
    """What comes of each attempt in a container that is let reach what the settings say."""
    process = await runtime.start(scripts.launch("exec sleep 600"))
    made = ProxyLink(
        settings, boxes.run_dir / "proxy", environment(), rng=random.Random(1), patience=60
    )
    async with made as link:
        reached = Reached(
            project=ProjectId("p"),
            generation=Generation(1),
            marker=scripts.marker,
            pid=process.identity.pid,
            start_ticks=process.identity.start_ticks,
        )
        await soon(link.open(reached))
        ask = ("exec", process.identity.container, "python3", "-c", ASK)
        said = await soon(asyncio.to_thread(boxes.podman.ask, *ask))
        await process.kill_tree()
    return said.splitlines()


async def test_an_allowed_host_is_reached_by_a_tunnel_and_no_other(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    settings = ProxySettings(
        socket=tmp_path / "unit" / "proxy.sock",
        connect_allow=(f"{PUBLIC}:{PORT}", f"127.0.0.1:{PORT}"),
    )
    with somewhere() as namespace:
        async with unit(namespace, tmp_path, settings):
            said = await said_inside(boxes, scripts, runtime, settings)
    # Allowed; another port; allowed and not public; neither; and without the tunnel.
    assert said[0] == "200 the index has a package"
    assert [line.split()[0] for line in said[1:]] == ["403", "403", "403", "OSError"]


async def test_without_an_allowed_host_there_is_no_such_listener(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    settings = ProxySettings(socket=tmp_path / "unit" / "proxy.sock")
    with somewhere() as namespace:
        async with unit(namespace, tmp_path, settings):
            said = await said_inside(boxes, scripts, runtime, settings)
    assert said == ["ConnectionRefusedError"] * 4 + ["OSError"]
