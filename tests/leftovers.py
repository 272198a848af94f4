"""What a run of tests has left on the machine: containers, mounts, processes, sockets and the like.

Ours is what has this run's temporary directory in it, or its session in the environment: other runs
on the machine, and whatever else lives there, are left alone.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from supervisor.settings import environment
from tests.conftest import SESSION

DEADLINE = 20.0
"""Seconds what is ending may take to be gone: a conmon outlives its container for a while."""
_NAMESPACES = Path("/run/netns")
_OURS = "codex-supervisor"


class Leftovers:
    """Looks at `directory`, the run's own. What was there before and cannot be told by its name,
    as namespaces and control groups cannot, is taken for somebody else's."""

    def __init__(self, directory: Path, session: str, podman: Mapping[str, str] | None) -> None:
        # Not the directory of another run whose number only begins as ours does.
        self._directory = re.compile(re.escape(str(directory)) + r"(?![0-9A-Za-z])")
        self._session = session
        self._podman = podman
        self._before = {*_namespaces(), *_groups()}

    def once_settled(self) -> list[str]:
        """What is there still when whatever was about to end has done so."""
        deadline = time.monotonic() + DEADLINE
        # All the time the same: others come and go.
        left = {*self.found()}
        while left and time.monotonic() < deadline:
            time.sleep(0.1)  # nobody tells
            left &= {*self.found()}
        return sorted(left)

    def found(self) -> list[str]:
        """All of it, in words."""
        every = [self._containers(), self._processes(), self._mounts(), self._sockets()]
        every += [self._loops(), self._unknown()]
        return [what for some in every for what in some]

    def _containers(self) -> Iterator[str]:
        for container in self._listed():
            said = self._asked("inspect", "--type", "container", container)
            if self._directory.search(said):
                yield f"container {container[:12]}"

    def _processes(self) -> Iterator[str]:
        family = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in family and self._is_ours(process):
                    yield f"process {process.pid} {' '.join(process.cmdline())[:160]}"

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(SESSION) == self._session:
            return True
        # A container's have nothing of ours but their mounts.
        mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
        return bool(self._directory.search(mounts)) and not _shares_our_mounts(process.pid)

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if self._directory.search(line):
                yield f"mount {line.split()[4]}"

    def _sockets(self) -> Iterator[str]:
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            name = line.partition("/")[1] + line.partition("/")[2]
            abstract = line.rpartition("@")[2] if "@" in line else ""
            if self._directory.match(name) or abstract.startswith(_OURS):
                yield f"socket {name or abstract}"

    def _loops(self) -> Iterator[str]:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if self._directory.match(backing.read_text()):
                    yield f"loop device {backing.parts[3]}"

    def _unknown(self) -> Iterator[str]:
        """New ones, of containers that podman does not know."""
        known = set(self._listed()) | self._running()
        for what in {*_namespaces(), *_groups()} - self._before:
            identity = re.search(r"[0-9a-f]{64}", what)
            if identity is None or identity.group() not in known:
                yield what

    def _listed(self) -> list[str]:
        return self._asked("ps", "--all", "--external", "--no-trunc", "--quiet").split()

    def _running(self) -> set[str]:
        """Those that some OCI runtime has: podman may not have noted them yet."""
        listed: set[str] = set()
        for name in ("runc", "crun"):
            if self._podman is not None and shutil.which(name):
                said = subprocess.run(
                    [name, "list", "--quiet"], capture_output=True, text=True, check=False
                )
                listed |= set(said.stdout.split())
        return listed

    def _asked(self, *argv: str) -> str:
        """What podman prints; nothing where there is none, or of one that has gone."""
        if self._podman is None:
            return ""
        said = subprocess.run(
            ["podman", *argv], env=dict(self._podman), capture_output=True, text=True, check=False
        )
        return said.stdout


def _shares_our_mounts(pid: int) -> bool:
    ours, theirs = (Path(f"/proc/{who}/ns/mnt").readlink() for who in ("self", str(pid)))
    return ours == theirs


def _namespaces() -> set[str]:
    if not _NAMESPACES.is_dir():
        return set()
    return {f"network namespace {path.name}" for path in _NAMESPACES.iterdir()}


def _groups() -> set[str]:
    """By container: each controller has its own."""
    found = set()
    for place in ("*/libpod_parent", "libpod_parent", "*/machine.slice", "machine.slice"):
        for path in Path("/sys/fs/cgroup").glob(f"{place}/libpod-*"):
            found.add(f"control group {path.name}")
    return found


@contextlib.contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Fail after the body if anything of this run is left."""
    podman = environment() if shutil.which("podman") else None
    looking = Leftovers(directory, environment()[SESSION], podman)
    yield
    left = looking.once_settled()
    assert not left, "tests left behind: " + "; ".join(left)
