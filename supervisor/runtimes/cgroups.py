"""What a container uses, read from its cgroup's files: about 15 µs a file, no podman asked.

Version 1 has a hierarchy a controller, version 2 one for all. Nothing here raises: a cgroup that
has gone reads as None.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from supervisor.ports.runtime import Usage
from supervisor.runtimes.processes import PROC

ROOT: Final = Path("/sys/fs/cgroup")
_ALL: Final = ""
"""The controller of version 2: its one hierarchy has them all."""
_CFS: Final = ("quota", "period")
_UNLIMITED: Final = 1 << 60
"""Version 1 says no limit by the largest multiple of a page."""


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that a cgroup has. None: there is none, or this kernel has no such thing."""

    memory_bytes: int | None = None
    swap_bytes: int | None = None
    """Beyond the memory."""
    pids: int | None = None
    cpus: float | None = None


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """A container's cgroup: its directory by controller."""

    version: Literal[1, 2]
    directories: Mapping[str, Path]

    def usage(self) -> Usage | None:
        """What it uses now; None once it has gone."""
        try:
            return self._usage_v1() if self.version == 1 else self._usage_v2()
        except OSError:
            return None

    def in_force(self) -> InForce:
        """Its own limits; what is above it may have narrower ones."""
        if self.version == 1:
            memory = self._told("memory", "memory.limit_in_bytes")
            both = self._told("memory", "memory.memsw.limit_in_bytes")
            quota, period = (self._told("cpu", f"cpu.cfs_{name}_us") for name in _CFS)
            swap = None if both is None or memory is None else both - memory
        else:
            memory = self._told("memory", "memory.max")
            swap = self._told("memory", "memory.swap.max")
            quota, period = (self._told("cpu", "cpu.max", column) for column in (0, 1))
        return InForce(
            memory_bytes=memory,
            swap_bytes=swap,
            pids=self._told("pids", "pids.max"),
            cpus=quota / period if quota is not None and quota > 0 and period else None,
        )

    def _told(self, controller: str, name: str, column: int = 0) -> int | None:
        """None also for a file that is not there: its controller was not delegated."""
        try:
            said = self._file(controller, name).read_text().split()[column]
        except (OSError, IndexError):
            return None
        return None if said == "max" or int(said) >= _UNLIMITED else int(said)

    def oom_kills(self) -> int | None:
        """How many of its processes the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            return _table(self._file("memory", name)).get("oom_kill", 0)
        except OSError:
            return None

    def frozen(self) -> bool:
        """Whether it is paused, or about to be."""
        try:
            if self.version == 1:
                return self._file("freezer", "freezer.state").read_text().strip() != "THAWED"
            return self._file("freezer", "cgroup.freeze").read_text().strip() == "1"
        except OSError:
            return False

    def processes(self) -> set[int]:
        """The pids in it and below it, as this machine counts them."""
        pids: set[int] = set()
        try:
            # Version 2 keeps processes in the leaves only.
            for file in self._file("pids", "").rglob("cgroup.procs"):
                pids.update(int(line) for line in file.read_text().split())
        except OSError:
            return pids
        return pids

    def _usage_v1(self) -> Usage:
        cpu = _table(self._file("cpu", "cpu.stat"))
        return Usage(
            memory_bytes=_working_set(
                _number(self._file("memory", "memory.usage_in_bytes")),
                _table(self._file("memory", "memory.stat")).get("total_inactive_file", 0),
            ),
            memory_limit_bytes=_limit(self._file("memory", "memory.limit_in_bytes")),
            memory_peak_bytes=_limit(self._file("memory", "memory.max_usage_in_bytes")),
            cpu_seconds=_number(self._file("cpuacct", "cpuacct.usage")) / 1e9,
            throttled_seconds=cpu.get("throttled_time", 0) / 1e9,
            throttled_periods=cpu.get("nr_throttled", 0),
            pids=_number(self._file("pids", "pids.current")),
            pids_limit=_limit(self._file("pids", "pids.max")),
            oom_kills=_table(self._file("memory", "memory.oom_control")).get("oom_kill", 0),
        )

    def _usage_v2(self) -> Usage:
        cpu = _table(self._file("cpu", "cpu.stat"))
        peak = self._file("memory", "memory.peak")
        return Usage(
            memory_bytes=_working_set(
                _number(self._file("memory", "memory.current")),
                _table(self._file("memory", "memory.stat")).get("inactive_file", 0),
            ),
            memory_limit_bytes=_limit(self._file("memory", "memory.max")),
            memory_peak_bytes=_number(peak) if peak.exists() else None,  # since Linux 5.19
            cpu_seconds=cpu.get("usage_usec", 0) / 1e6,
            throttled_seconds=cpu.get("throttled_usec", 0) / 1e6,
            throttled_periods=cpu.get("nr_throttled", 0),
            pids=_number(self._file("pids", "pids.current")),
            pids_limit=_limit(self._file("pids", "pids.max")),
            oom_kills=_table(self._file("memory", "memory.events")).get("oom_kill", 0),
        )

    def _file(self, controller: str, name: str) -> Path:
        directory = self.directories.get(_ALL if self.version == 2 else controller)
        if directory is None:
            raise FileNotFoundError(f"no {controller} controller")
        return directory / name


def cgroup_of(pid: int, container: str, proc_root: Path = PROC, root: Path = ROOT) -> Cgroup | None:
    """The cgroup of the container whose id is `container`, by its process `pid`; None if that
    process is not in it, has ended, or was given no cgroup of its own."""
    try:
        text = (proc_root / str(pid) / "cgroup").read_text()
    except OSError:
        return None
    return located(text, container, root)


def located(text: str, container: str, root: Path = ROOT) -> Cgroup | None:
    """`text` is a /proc/<pid>/cgroup: lines of `number:controllers:path`."""
    found: dict[str, Path] = {}
    unified: Path | None = None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        own = _own(path, container)
        if own is None:
            continue
        if not controllers:
            unified = root / own
        elif not controllers.startswith("name="):
            directory = root / controllers / own
            found.update(dict.fromkeys(controllers.split(","), directory))
    # Where both are mounted (hybrid), the controllers are with version 1.
    if found:
        return Cgroup(version=1, directories=found)
    return None if unified is None else Cgroup(version=2, directories={_ALL: unified})


def _own(path: str, container: str) -> str | None:
    """The part of `path` up to the container's own: runtimes put the processes further below."""
    if not container:
        return None
    parts = path.lstrip("/").split("/")
    depth = next((n for n, part in enumerate(parts, 1) if container in part), None)
    return None if depth is None else "/".join(parts[:depth])


def _number(file: Path) -> int:
    return int(file.read_text())


def _limit(file: Path) -> int | None:
    said = file.read_text().strip()
    if said == "max" or int(said) >= _UNLIMITED:
        return None
    return int(said)


def _table(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _working_set(used: int, droppable: int) -> int:
    return max(0, used - droppable)
