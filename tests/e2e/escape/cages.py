"""Containers to get out of: ours, and some without walls, where the attempts show their worth."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import codex_cli_bin
import psutil

from supervisor.agents.fifo import FifoWriter
from supervisor.errors import SupervisorError
from supervisor.ports.runtime import Launch
from supervisor.runtimes.copies import codex_copy
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.spec import CODEX_BINARY
from supervisor.runtimes.stdio import opened
from tests.conftest import require
from tests.containers import IMAGE, OWNER, Boxes
from tests.contract.scripted import DEADLINE, Scripts, said
from tests.e2e.escape.ground import METADATA, SOMEBODY, SOMEBODY6, Ground, Results

OUTSIDE = Path(__file__).parent / "outside.py"
PATIENCE = 120.0
"""Seconds for all attempts at once."""


@dataclass(frozen=True)
class Caged:
    """A container that runs, and what its app-server was started from."""

    name: str
    launch: Launch


def stdio_of(launch: Launch) -> dict[str, Path]:
    return {"stdin": launch.stdin, "stdout": launch.stdout, "stderr": launch.stderr}


def attack(ground: Ground, podman: Podman, caged: Caged, attempts: Sequence[str] = ()) -> Results:
    """Run the attempts beside the app-server, as its uid: what `podman exec` starts."""
    armed = ground.arm(stdio_of(caged.launch), "exec")
    podman.ask("exec", "--workdir", str(armed.folder), caged.name, *armed.argv, *attempts)
    return armed.found()


_DUMP = "p=$(pgrep -x codex) && prlimit --pid $p --core=unlimited && kill -ABRT $p"


def dumped(ground: Ground, podman: Podman, caged: Caged) -> list[Path]:
    """The cores that an app-server leaves in the project when its own user makes it crash."""
    pid = int(podman.ask("inspect", "--format", "{{.State.Pid}}", caged.name))
    with contextlib.suppress(SupervisorError):
        # The command ends with the container.
        podman.ask("exec", caged.name, "sh", "-c", _DUMP)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=DEADLINE)
    assert not psutil.pid_exists(pid), "it did not crash"
    return [*ground.project.glob("core*")]


# -- ours


@asynccontextmanager
async def ours(
    boxes: Boxes, scripts: Scripts, copies: Path
) -> AsyncIterator[tuple[Caged, "Asker"]]:
    """The real Codex in a container as the supervisor starts it; it has answered."""
    boxes.change(codex_folder=codex_copy(codex_cli_bin.bundled_codex_path(), copies))
    launch = scripts.launch("", argv=[str(CODEX_BINARY), "app-server"])
    runtime = boxes.runtime()
    process = await runtime.start(launch)
    try:
        asker = Asker(launch)
        await asker.ask("initialize", {"clientInfo": {"name": "t", "title": "t", "version": "1"}})
        yield Caged(process.identity.container, launch), asker
        asker.close()
    finally:
        await process.kill_tree()
        runtime.close()


class Asker:
    """Talks to an app-server by its FIFO and its spool."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._writer = FifoWriter(launch.stdin)
        self._asked = 0

    async def ask(self, method: str, params: Mapping[str, object]) -> None:
        """Ask, and wait for the answer."""
        self._asked += 1
        number = f"asked-{self._asked}"
        line = json.dumps({"id": number, "method": method, "params": params})
        await self._writer.write_line(line.encode())
        await said(self._launch, f'"id":"{number}"')

    def close(self) -> None:
        self._writer.close()


# -- without walls


@contextmanager
def _world(ground: Ground) -> Iterator[str]:
    """A network that answers, in the host's stead; how podman is told of it."""
    require(shutil.which("ip") and shutil.which("unshare"), "iproute2 and util-linux")
    addresses = [METADATA, SOMEBODY, SOMEBODY6, "198.51.100.1"]
    addresses += [*ground.addresses, *ground.facts({})["gateways"]]
    told = {
        "addresses": sorted(set(addresses)),
        "ports": [80, 443, ground.port],
        "abstract": ground.abstract,
    }
    argv = ["unshare", "--net", sys.executable, "-I", str(OUTSIDE), json.dumps(told)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith(b"ready")
            yield f"ns:/proc/{process.pid}/ns/net"
        finally:
            process.stdin.close()
            process.wait(DEADLINE)


@contextmanager
def _run(
    ground: Ground, podman: Podman, launch: Launch, options: Sequence[str], argv: Sequence[str]
) -> Iterator[Caged]:
    """`podman run` with nothing but what it needs to be the same kind of thing."""
    name = f"{launch.marker}-{launch.generation}"
    files = launch.stdout.parent
    # Neither its place nor its mode is a wall here.
    files.chmod(0o755)
    launch.stdin.chmod(0o666)
    launch.stdout.touch()
    launch.stdout.chmod(0o666)
    with _world(ground) as network:
        line = ["run", "-d", "-i", "--init", "--log-driver", "passthrough", "--name", name]
        line += ["--network", network, "--pull", "never", "--workdir", str(ground.project)]
        line += ["--volume", f"{ground.root}:{ground.root}", *options, IMAGE, *argv]
        try:
            with opened(launch) as descriptors:
                status = podman.launch(line, descriptors, files, launch.marker)
            assert status == 0, launch.stderr.read_text()
            yield Caged(name, launch)
        finally:
            podman.ask("rm", "--force", "--ignore", "--time", "0", name)


@contextmanager
def plain(ground: Ground, podman: Podman, scripts: Scripts) -> Iterator[Caged]:
    """The same uid and the real Codex, no option that keeps it in, and its folder readable."""
    folder = codex_cli_bin.bundled_codex_path().parents[1]
    options = ["--user", f"{OWNER}:{OWNER}", "--volume", f"{folder}:/opt/codex:ro"]
    options += ["--env", "CODEX_HOME=/tmp", "--env", "HOME=/tmp"]
    with _run(
        ground, podman, scripts.launch(""), options, [str(CODEX_BINARY), "app-server"]
    ) as made:
        yield made


@contextmanager
def privileged(ground: Ground, podman: Podman, scripts: Scripts) -> Iterator[Caged]:
    """Root with all rights, and something to tamper with where Codex would be."""
    folder, pinned = ground.root / "codex-standing-in", ground.root / "pinned"
    (folder / "bin").mkdir(parents=True)
    pinned.mkdir()
    (folder / "bin" / "codex").touch()
    for name in ("requirements.toml", "config.toml"):
        (pinned / name).touch()
    options = [
        "--privileged",
        "--volume",
        f"{folder}:/opt/codex",
        "--volume",
        f"{pinned}:/etc/codex",
    ]
    with _run(ground, podman, scripts.launch(""), options, ["sleep", "infinity"]) as made:
        yield made
