"""Ways into the kernel, or to what it keeps for the whole machine."""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
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

_SHOWN = 400
"""How many tunables are tried before the rest is taken for the same."""


def _same_again(path: str) -> Callable[[], str]:
    """Write to a tunable what it says: refused to whom another value would be."""

    def write() -> str:
        said = Path(path).read_bytes()
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, said)
        finally:
            os.close(fd)
        return "written"

    return write


@attempt(PRIVILEGED)
def name_the_program_that_gets_core_dumps(facts: Facts) -> str:
    return _same_again("/proc/sys/kernel/core_pattern")()


@attempt(PRIVILEGED)
def turn_a_tunable_of_the_kernel(facts: Facts) -> str:
    def opened(path: str) -> Callable[[], str]:
        def way() -> str:
            os.close(os.open(path, os.O_WRONLY))
            return "opened for writing"

        return way

    folders = (
        "/proc/sys/kernel",
        "/proc/sys/vm",
        "/proc/sys/fs",
        "/proc/sys/net",
        "/proc/sys/user",
    )
    paths = [
        f"{place}/{name}"
        for folder in folders
        for place, _, names in os.walk(folder)
        for name in names[:_SHOWN]
    ]
    return first_through((path, opened(path)) for path in paths)


@attempt(unshown="not every kernel has them")
def press_a_magic_key(facts: Facts) -> str:
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return "the trigger is open"


@attempt(PRIVILEGED)
def write_below_sys(facts: Facts) -> str:
    places = [
        "/sys/kernel",
        "/sys/power",
        "/sys/module",
        "/sys/block",
        "/sys/class/net",
        "/sys/bus",
    ]
    paths = [
        f"{place}/{name}"
        for folder in places
        for place, _, names in os.walk(folder)
        for name in names
        if os.lstat(f"{place}/{name}").st_mode & 0o200
    ]

    def way(path: str) -> Callable[[], str]:
        def opened() -> str:
            os.close(os.open(path, os.O_WRONLY))
            return "opened for writing"

        return opened

    return first_through([(path, way(path)) for path in paths[:_SHOWN]])


@attempt(PRIVILEGED)
def read_the_memory_of_the_kernel(facts: Facts) -> str:
    """Or its log, or where it keeps things."""

    def addresses() -> str:
        first = Path("/proc/kallsyms").read_text().split()[0]
        if int(first, 16) == 0:
            raise RefusedError("all addresses are nought")
        return first

    def opened(path: str) -> Callable[[], str]:
        def way() -> str:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if not os.read(fd, 8192):
                raise RefusedError("empty")
            return "read"

        return way

    files = ("/dev/mem", "/dev/port", "/dev/kmsg", "/proc/kcore", "/proc/kmsg")
    return first_through([*((p, opened(p)) for p in files), ("addresses", addresses)])


@attempt(PRIVILEGED)
def read_the_log_of_the_kernel(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(4096)
    return f"{calls.call('syslog', 3, buffer, 4096)} bytes"


@attempt(unshown="not every kernel has modules")
def load_a_module(facts: Facts) -> str:
    """One that is none: who may not, is told so before it is looked at."""
    try:
        calls.call("init_module", ctypes.create_string_buffer(64), 64, b"")
    except OSError as error:
        if error.errno not in (errno.ENOEXEC, errno.EINVAL, errno.EFAULT):
            raise
    return "the kernel would take one"


@attempt(PRIVILEGED)
def put_a_program_into_the_kernel(facts: Facts) -> str:
    """A map first: type, key, value, entries."""
    wanted = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 8, 1), 72)
    return f"descriptor {calls.call('bpf', 0, wanted, 72)} is a map"


@attempt(PRIVILEGED)
def watch_the_machine_with_performance_counters(facts: Facts) -> str:
    wanted = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 0), 128)
    return f"descriptor {calls.call('perf_event_open', wanted, -1, 0, -1, 0)} counts processor 0"


@attempt(PRIVILEGED)
def handle_page_faults_of_the_kernel(facts: Facts) -> str:
    """What makes races in the kernel easy to win."""
    return f"descriptor {calls.call('userfaultfd', 0)} does"


@attempt(PRIVILEGED)
def go_round_the_filter_by_a_ring(facts: Facts) -> str:
    """What io_uring does in one's place, no filter of system calls sees."""
    return f"descriptor {calls.call('io_uring_setup', 4, ctypes.create_string_buffer(120))} is one"


@attempt(PRIVILEGED)
def watch_the_files_of_the_host(facts: Facts) -> str:
    """All of a file system's events, whatever is mounted of it."""
    fd = calls.call("fanotify_init", 0x200, os.O_RDONLY)
    project = facts["project"].encode()
    calls.call("fanotify_mark", fd, 0x101, 0x20, -100, project)
    return f"descriptor {fd} is told of every file that is opened"


# -- keys


_USER, _SESSION = -4, -3
_GET, _JOIN, _LINK, _SEARCH, _READ, _PERSISTENT = 0, 1, 8, 10, 11, 22


def _key(ring: int, name: str) -> bytes:
    number = calls.call("keyctl", _SEARCH, ring, b"user", name.encode(), 0)
    buffer = ctypes.create_string_buffer(256)
    size = calls.call("keyctl", _READ, number, buffer, 256)
    return buffer.raw[:size]


@attempt(PLAIN, walls=[errno.ENOKEY, errno.EOPNOTSUPP])
def read_a_key_of_the_hosts_user(facts: Facts) -> str:
    """The kernel's key rings belong to a uid, the same in every container: tickets are there."""
    calls.call("keyctl", _JOIN, None)
    calls.call("keyctl", _LINK, _USER, _SESSION)
    found = _key(_SESSION, facts["key"])
    if found != facts["canary"].encode():
        raise LookupError(f"another key: {found!r}")
    return f"{len(found)} bytes of {facts['key']}"


@attempt(PLAIN, walls=[errno.EOPNOTSUPP])
def share_a_key_ring_with_a_sibling(facts: Facts) -> str:
    return f"ring {calls.call('keyctl', _GET, _USER, 1)} is every container's of this uid"


@attempt(PLAIN, walls=[errno.EOPNOTSUPP])
def read_the_persistent_keys_of_the_hosts_user(facts: Facts) -> str:
    """Where a login keeps its Kerberos tickets."""
    calls.call("keyctl", _JOIN, None)
    return f"ring {calls.call('keyctl', _PERSISTENT, -1, _SESSION)} is linked"
