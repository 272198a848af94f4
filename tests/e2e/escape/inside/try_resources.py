"""Ways to take so much that others have none: each must run into a bound, and do no more harm."""

import ctypes
import errno
import mmap
import os
import tempfile
from collections.abc import Callable

from tests.e2e.escape.inside.attempting import PLAIN, Facts, RefusedError, attempt

_STEP = 4 << 20


def _filled(folder: str, size: int) -> str:
    """Write so many bytes to a file there."""
    block = b"\xff" * _STEP
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        written = 0
        while written < size:
            try:
                written += file.write(block)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise RefusedError(f"full after {written} bytes") from error
    return f"{written} bytes were taken"


def _killed(work: Callable[[], object]) -> str:
    """How a child that takes memory ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except (MemoryError, OSError, RefusedError):
            os._exit(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise RefusedError(f"ended by signal {os.WTERMSIG(status)}")
    if os.WEXITSTATUS(status) == 2:
        raise RefusedError("it was given no more")
    return "it was given all"


def _touched(area: mmap.mmap, size: int) -> None:
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1


@attempt(PLAIN)
def fill_tmp(facts: Facts) -> str:
    return _over_the_bound("/tmp", facts, "tmp")


@attempt(PLAIN)
def fill_the_shared_memory(facts: Facts) -> str:
    return _over_the_bound("/dev/shm", facts, "shm")


def _over_the_bound(folder: str, facts: Facts, kind: str) -> str:
    found = os.statvfs(folder)
    memory = facts["limits"]["memory"]
    if kind == "shm" and found.f_blocks * found.f_frsize > memory:
        # Not the container's, but one that Codex's sandbox made. Past the bound of memory it may be
        # the app-server that ends, so that is tried apart.
        raise RefusedError("it is memory, and counted as such")
    return _filled(folder, facts["limits"][kind] + (8 << 20))


@attempt(PLAIN)
def take_all_memory(facts: Facts) -> str:
    size = facts["limits"]["memory"] * 5 // 4

    def take() -> None:
        _touched(mmap.mmap(-1, size), size)

    return f"{_killed(take)}: {size} bytes"


@attempt(PLAIN)
def take_all_memory_as_files_that_have_no_name(facts: Facts) -> str:
    size = facts["limits"]["memory"] * 5 // 4

    def take() -> None:
        fd = os.memfd_create("hidden")
        os.ftruncate(fd, size)
        _touched(mmap.mmap(fd, size), size)

    return f"{_killed(take)}: {size} bytes"


@attempt(PLAIN)
def fork_without_end(facts: Facts) -> str:
    """Half as many again as there may be; all wait for the end of a pipe, and go with it."""
    wanted = facts["limits"]["pids"] * 3 // 2
    reading, writing = os.pipe()
    children: list[int] = []
    try:
        while len(children) < wanted:
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            children.append(child)
        return f"{len(children)} processes"
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        raise RefusedError(f"no more after {len(children)}") from error
    finally:
        os.close(writing)
        for child in children:
            os.waitpid(child, 0)


@attempt(unshown="the bound is the kernel's own, for each user")
def take_all_watches(facts: Facts) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    for taken in range(100_000):
        if libc.inotify_init1(0) < 0:
            raise RefusedError(f"{errno.errorcode[ctypes.get_errno()]} after {taken}")
    return "100000 instances"


@attempt(unshown="every container has a bound of descriptors")
def take_all_descriptors(facts: Facts) -> str:
    taken = 0
    try:
        while taken < 4_000_000:
            os.dup(0)
            taken += 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise RefusedError(f"EMFILE after {taken}") from error
    return f"{taken} descriptors"
