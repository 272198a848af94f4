"""Ways to more rights than the agent was given."""

import ctypes
import errno
import os
import stat
import subprocess
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


def _of_the_host() -> bool:
    """Whether root here would be the machine's root."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _read_by(program: str, path: str) -> str:
    """What a planted program can read that the agent cannot."""
    ran = subprocess.run([program, path], capture_output=True, check=False)
    if ran.returncode != 0:
        raise RefusedError(ran.stderr.decode(errors="replace").strip())
    return f"{program} read {path}: {len(ran.stdout)} bytes"


@attempt(PLAIN)
def run_a_setuid_program_of_roots(facts: Facts) -> str:
    return _read_by(facts["setuid"], facts["roots"])


@attempt(PLAIN)
def run_a_program_with_file_capabilities(facts: Facts) -> str:
    return _read_by(facts["capable"], facts["roots"])


@attempt(PRIVILEGED)
def read_a_file_of_roots(facts: Facts) -> str:
    return f"{len(Path(facts['roots']).read_bytes())} bytes of {facts['roots']}"


@attempt(unshown="the image has none; the planted ones show what they would be good for")
def run_a_setuid_program_of_the_image(facts: Facts) -> str:
    found = []
    for folder in ("/bin", "/sbin", "/usr", "/opt", "/lib"):
        for place, _, names in os.walk(folder):
            found += [f"{place}/{name}" for name in names if _lends_rights(f"{place}/{name}")]
    if not found:
        raise RefusedError("there is none")
    return f"they are there: {found}"


def _lends_rights(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))


@attempt(PRIVILEGED)
def become_root(facts: Facts) -> str:
    ways = (
        ("setuid", lambda: os.setresuid(0, 0, 0)),
        ("setgid", lambda: os.setresgid(0, 0, 0)),
        ("setgroups", lambda: os.setgroups([0])),
    )

    def tried(change: Callable[[], None]) -> str:
        change()
        if not _of_the_host():
            raise RefusedError("that root is nobody outside")
        return "the kernel agreed"

    # EINVAL: nobody is 0 where the agent's own is the only uid.
    made = ((name, lambda change=change: tried(change)) for name, change in ways)
    return first_through(made, walls=[errno.EINVAL])


@attempt(PRIVILEGED)
def take_capabilities(facts: Facts) -> str:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    every = (ctypes.c_uint32 * 6)(*[1 << 21] * 3, 0, 0, 0)  # CAP_SYS_ADMIN
    calls.call("capset", header, every)
    return "CAP_SYS_ADMIN is ours"


@attempt(PRIVILEGED)
def use_a_capability(facts: Facts) -> str:
    """Each of the first word: is any effective, and not only in a namespace of one's own?"""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "CapEff" in x)
    effective = int(line.split()[1], 16)
    if effective == 0:
        raise RefusedError("none is effective")
    return f"{effective:x} are"


@attempt(PLAIN)
def gain_rights_by_running_something(facts: Facts) -> str:
    """Without this flag, whatever else lends rights would."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "NoNewPrivs" in x)
    if line.split()[1] == "1":
        raise RefusedError("no new privileges")
    return line


@attempt(PRIVILEGED)
def do_without_a_filter_of_system_calls(facts: Facts) -> str:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "Seccomp:" in x)
    if line.split()[1] == "2":
        raise RefusedError("a filter is there")
    return line


@attempt(PRIVILEGED)
def read_a_host_file_by_its_handle(facts: Facts) -> str:
    """A handle names a file of a file system, whatever is mounted of it."""
    handle = bytes.fromhex(facts["handle"])
    fd = os.open(facts["project"], os.O_RDONLY | os.O_DIRECTORY)
    found = calls.call("open_by_handle_at", fd, ctypes.create_string_buffer(handle), os.O_RDONLY)
    if facts["canary"].encode() not in os.read(found, 4096):
        raise LookupError("that was another file")
    return "the file beside the project is open"


@attempt(PRIVILEGED)
def make_the_node_of_a_disk(facts: Facts) -> str:
    lines = Path("/proc/partitions").read_text().split("\n")[2:]
    disks = [tuple(map(int, line.split()[:2])) for line in lines if line.strip()]
    folders = [facts["project"], "/tmp", "/dev/shm", "/codex"]

    def way(folder: str, major: int, minor: int) -> str:
        node = Path(folder, f"disk-{major}-{minor}")
        node.unlink(missing_ok=True)
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
        node.unlink()
        return f"disk {major}:{minor} has a node"

    return first_through(
        (folder, lambda folder=folder, disk=disk: way(folder, *disk))
        for folder in folders
        for disk in disks or [(8, 0)]
    )


@attempt(PRIVILEGED)
def open_a_device_that_is_the_hosts(facts: Facts) -> str:
    """All that is in /dev, but what every program needs."""
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}
    nodes = [
        path
        for path in Path("/dev").rglob("*")
        if path.name not in harmless and not path.is_symlink()
    ]

    def opened(path: Path) -> str:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
        return "opened"

    real = [p for p in nodes if p.is_char_device() or p.is_block_device()]
    theirs = [p for p in real if "pts" not in p.parts]
    ways = [(str(p), lambda p=p: opened(p)) for p in theirs]
    if not ways:
        raise RefusedError("there is none")
    return first_through(ways, walls=[errno.EBUSY, errno.EINVAL, errno.EIO])


@attempt(PRIVILEGED)
def restart_the_machine(facts: Facts) -> str:
    """With a number that is no order: who may not, is told so before it is looked at."""
    try:
        calls.call("reboot", 0xFEE1DEAD, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return "the kernel would obey"
