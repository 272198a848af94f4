"""Processes of this machine: who one is, and the end of all that belong to a generation.

Everything here blocks and belongs in a thread. Nothing is ever signalled by a bare pid: a pidfd is
opened first, then the identity behind it is checked, so that a reused pid is never hit.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from supervisor.ports.runtime import MARKER_VARIABLE

PROC = Path("/proc")
_ENDED = (b"Z", b"X", b"x")
_ROUNDS = 50
"""How often to look again for what was forked meanwhile, before giving up."""
_DEATH_SECONDS = 2.0
"""How long to wait for the killed of one round; one in an uninterruptible call takes longer."""


def boot_id(proc_root: Path = PROC) -> str:
    """The kernel's id of this boot. Raises OSError."""
    return (proc_root / "sys/kernel/random/boot_id").read_text("ascii").strip()


def start_ticks(pid: int, proc_root: Path = PROC, *, ended: bool = False) -> int | None:
    """Field 22 of /proc/<pid>/stat, in clock ticks since boot; None: no such live process.

    With `ended`, also of one that has ended and was not collected yet. The command name before
    the field is the process's own choice and may hold spaces and brackets.
    """
    fields = _stat(pid, proc_root)
    if fields is None or (fields[0] in _ENDED and not ended):
        return None
    return int(fields[19])


def zombie_status(pid: int, ticks: int, proc_root: Path = PROC) -> int | None:
    """Field 52: the wait(2) status of one that ended and that its parent has yet to collect."""
    fields = _stat(pid, proc_root)
    if fields is None or fields[0] not in _ENDED or int(fields[19]) != ticks:
        return None
    return int(fields[49])


def carries_marker(pid: int, marker: str, proc_root: Path = PROC) -> bool | None:
    """Whether the process was started with `marker`; None: we may not look."""
    try:
        return f"{MARKER_VARIABLE}={marker}".encode() in _environment(pid, proc_root)
    except PermissionError:
        return None


def markers(prefix: str, proc_root: Path = PROC) -> set[str]:
    """The markers that begin with `prefix` of all processes that may be looked at."""
    wanted = f"{MARKER_VARIABLE}={prefix}".encode()
    found: set[str] = set()
    for pid in [int(p.name) for p in proc_root.iterdir() if p.name.isdigit()]:
        with contextlib.suppress(PermissionError):
            carried = (v for v in _environment(pid, proc_root) if v.startswith(wanted))
            found.update(v.partition(b"=")[2].decode(errors="replace") for v in carried)
    return found


def _environment(pid: int, proc_root: Path) -> list[bytes]:
    try:
        return (proc_root / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


class Reaper:
    """Ends every process of one generation: those that carry its marker, and all below them.

    A command that leaves its parents (setsid, double fork) is found by the marker in its
    environment; one that also empties its environment is found only while its parents live. A
    cgroup holds those as well: that is what containers are for.
    """

    def __init__(self, marker: str, root: psutil.Process | None = None) -> None:
        if not marker:
            raise ValueError("an empty marker is nobody's")
        self._marker = marker
        self._root = root
        self._killed: set[psutil.Process] = set()
        self._refused: set[psutil.Process] = set()
        self._spared = {1, *_own_line()}

    def run(self) -> int:
        """Kill until none is found; return how many there were."""
        # Looked up before anything dies: the children of the dead belong to init.
        known = self._family()
        if self._root is not None:
            # First of all, so that it says nothing any more of how its commands ended.
            self._kill([self._root])
        for _ in range(_ROUNDS):
            found = self._remaining(known)
            if not found:
                break
            self._kill(found)
            known = self._family()
        return len(self._killed)

    def _family(self) -> set[psutil.Process]:
        """Everyone with the marker, the root, and all their descendants."""
        heads = {process for process in _all() if self._is_marked(process)}
        if self._root is not None:
            heads.add(self._root)
        family = set(heads)
        for head in heads:
            try:
                family.update(head.children(recursive=True))
            except psutil.Error:
                continue
        return family

    def _remaining(self, known: set[psutil.Process]) -> list[psutil.Process]:
        # Once is enough: SIGKILL is certain, if not at once for one in an uninterruptible call.
        return [process for process in known - self._refused - self._killed if _lives(process)]

    def _is_marked(self, process: psutil.Process) -> bool:
        return bool(carries_marker(process.pid, self._marker))

    def _kill(self, processes: Iterable[psutil.Process]) -> None:
        """SIGKILL each, and wait until they are gone."""
        waiting = [fd for fd in (self._kill_one(process) for process in processes) if fd >= 0]
        try:
            poller = select.poll()
            for fd in waiting:
                poller.register(fd, select.POLLIN)
            left = len(waiting)
            while left and (ended := poller.poll(_DEATH_SECONDS * 1000)):
                for fd, _ in ended:
                    poller.unregister(fd)
                left -= len(ended)
        finally:
            for fd in waiting:
                os.close(fd)

    def _kill_one(self, process: psutil.Process) -> int:
        """The pidfd of the killed, or -1 where there was none to kill."""
        if process.pid in self._spared:
            self._refused.add(process)
            return -1
        try:
            fd = os.pidfd_open(process.pid)
        except OSError:
            return -1
        try:
            if not _lives(process):
                os.close(fd)
                return -1
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            os.close(fd)
            return -1
        except PermissionError:
            # Another user's, by set-uid: not ours to end, and no reason to try for ever.
            self._refused.add(process)
            os.close(fd)
            return -1
        self._killed.add(process)
        return fd


def _stat(pid: int, proc_root: Path) -> list[bytes] | None:
    """The fields from the third, the state, on."""
    try:
        text = (proc_root / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rfind(b")") + 1 :].split()


def root_process(pid: int, ticks: int) -> psutil.Process | None:
    """The live process of that identity, for `Reaper`."""
    try:
        process = psutil.Process(pid)
    except psutil.Error:
        return None
    # Checked after psutil took its own note of the identity.
    return process if start_ticks(pid) == ticks else None


def _all() -> Iterable[psutil.Process]:
    # Not process_iter: its cache is shared by all threads.
    for pid in psutil.pids():
        try:
            yield psutil.Process(pid)
        except psutil.Error:
            continue


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _own_line() -> list[int]:
    """This process and its ancestors, who are never to be killed."""
    own = psutil.Process()
    return [own.pid, *(parent.pid for parent in own.parents())]
