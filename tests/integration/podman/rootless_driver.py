"""Run by an ordinary user: starts a container without root, and prints as JSON what came of it.

Arguments: a directory of that user's alone, and an archive to make the image from. The app-server
is a shell whose binary the agent cannot read, as codex is.
"""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from supervisor.agents.fifo import FifoWriter
from supervisor.errors import SupervisorError
from supervisor.ports.runtime import Launch
from supervisor.runtimes import rootless
from supervisor.runtimes.copies import codex_copy, init_copy
from supervisor.runtimes.podman import PodmanProcess, PodmanRuntime
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_start import SERVICE
from supervisor.runtimes.spec import CODEX_BINARY, ContainerSettings
from supervisor.settings import environment
from tests.contract.scripted import Scripts, said, soon

IMAGE = "localhost/codex-supervisor-tiny:1"
ATTACK = (
    "cat /proc/1/environ; echo forged >>/proc/1/fd/1; "
    "/bin/sh -c 'cat /proc/$PPID/environ; echo forged >>/proc/$PPID/fd/1'; id -u; "
    "touch file; while read -r line; do echo got $line; done"
)


class Place:
    """A user's directory, with all that a container needs."""

    def __init__(self, root: Path, archive: Path) -> None:
        self.run_dir = root / "run"
        self.variables = environment()
        self.podman = Podman(self.variables, directory=self.run_dir / SERVICE)
        self.podman.ask("import", str(archive), IMAGE)
        state, home, wheel = root / "state", root / "codex-home", root / "wheel"
        for made in (state, home, wheel / "bin"):
            made.mkdir(parents=True)
        shutil.copy(Path("/bin/sh").resolve(), wheel / "bin" / "codex")
        self.codex, self.init = wheel / "bin" / "codex", Path("/usr/bin/catatonit").resolve()
        self.root = root
        self.settings = ContainerSettings(
            image=IMAGE,
            uid=os.getuid(),
            gid=os.getgid(),
            codex_folder=wheel,
            init=self.init,
            codex_home=home,
            state_dir=state,
            userns=rootless.KEEP_ID,
        )

    def use(self, copied: tuple[Path, Path]) -> None:
        self.change(codex_folder=copied[0], init=copied[1])

    def change(self, **changes: object) -> None:
        self.settings = msgspec.structs.replace(self.settings, **changes)

    def runtime(self) -> PodmanRuntime:
        return PodmanRuntime(lambda _: self.settings, self.run_dir, self.variables)


async def attacked(
    runtime: PodmanRuntime, launch: Launch
) -> tuple[PodmanProcess, dict[str, object]]:
    """A container whose agent has tried to get at the stdio, and what it said."""
    process = await runtime.start(launch)
    writer = FifoWriter(launch.stdin)
    await soon(writer.write_line(b"word"))
    await said(launch, "got word")
    writer.close()
    return process, {
        "confinement": msgspec.to_builtins(process.confinement),
        "out": launch.stdout.read_text(),
        "err": launch.stderr.read_text(),
        "own_cgroup": process.usage() is not None,
    }


async def tried(place: Place, scripts: Scripts) -> dict[str, Any]:
    told: dict[str, Any] = {"uid": os.getuid()}
    runtime = place.runtime()
    told["sort"] = msgspec.to_builtins(place.podman.sort())
    place.use(rootless.copies(place.podman, place.codex, place.init, place.root / "copies"))
    again = rootless.copies(place.podman, place.codex, place.init, place.root / "copies")
    told["same_copies"] = again == (place.settings.codex_folder, place.settings.init)
    told["copy"] = [place.settings.init.stat().st_uid, oct(place.settings.init.stat().st_mode)]

    launch = scripts.launch("", argv=[str(CODEX_BINARY), "-c", ATTACK])
    process, told["held"] = await attacked(runtime, launch)
    told["markers"] = sorted(await runtime.markers(scripts.marker))
    process.release()
    adopted = await place.runtime().adopt(launch, process.identity)
    told["adopted"] = adopted is not None and msgspec.to_builtins(adopted.confinement)
    assert adopted is not None
    await adopted.terminate()
    told["exit"] = msgspec.to_builtins(await soon(adopted.wait()))
    await soon(adopted.kill_tree())

    # The same with copies of one's own: the agent gets at them.
    own = place.root / "own"
    place.use((codex_copy(place.codex, own), init_copy(place.init, own)))
    launch = scripts.launch("", argv=[str(CODEX_BINARY), "-c", ATTACK])
    process, told["open"] = await attacked(runtime, launch)
    told["swept"] = await soon(runtime.sweep(scripts.marker))
    told["killed"] = msgspec.to_builtins(await soon(process.wait()))

    place.change(require_limits=True)
    try:
        process = await runtime.start(scripts.launch("", argv=[str(CODEX_BINARY), "-c", "read x"]))
    except SupervisorError as error:
        told["required"] = error.as_dict()
    else:
        await process.kill_tree()
    told["left"] = [each.names for each in place.podman.containers()]
    told["files"] = [path.name for path in place.run_dir.iterdir()]
    runtime.close()
    return told


def main() -> None:
    root, archive = Path(sys.argv[1]), Path(sys.argv[2])
    scripts = Scripts(root, f"rootless-{os.getpid()}")
    print(json.dumps(asyncio.run(tried(Place(root, archive), scripts))))


if __name__ == "__main__":
    main()
