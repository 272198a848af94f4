"""Ways through mounts: more of the host, or what is there without its read-only flag or mask."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.e2e.escape.inside import calls
from tests.e2e.escape.inside.attempting import (
    PRIVILEGED,
    Facts,
    RefusedError,
    attempt,
    first_through,
)

_REMOUNT, _BIND = 32, 4096
_TREE_CLONE, _AT_FDCWD = 1, -100
_WALLS = [errno.EINVAL, errno.EBUSY]
"""To a remount: EINVAL is what a mount that belongs to another namespace says."""


def _place() -> str:
    return tempfile.mkdtemp(prefix="mount-", dir="/tmp")


def _mounted(kind: str) -> str:
    place = _place()
    calls.mount("none", place, kind, 0)
    calls.call("umount2", place.encode(), 2)
    return f"{kind} mounted"


@attempt(PRIVILEGED)
def mount_without_further_ado(facts: Facts) -> str:
    return first_through((kind, lambda kind=kind: _mounted(kind)) for kind in ("tmpfs", "proc"))


@attempt(PRIVILEGED)
def mount_by_the_newer_calls(facts: Facts) -> str:
    ways: list[tuple[str, Callable[[], str]]] = [
        ("fsopen", lambda: f"context {calls.call('fsopen', b'tmpfs', 0)}"),
        ("open_tree", lambda: f"tree {calls.call('open_tree', _AT_FDCWD, b'/', _TREE_CLONE)}"),
    ]
    return first_through(ways)


@attempt(PRIVILEGED)
def mount_a_disk_of_the_host(facts: Facts) -> str:
    """Its root would be there, whatever is mounted of it here."""
    lines = Path("/proc/partitions").read_text().split("\n")[2:]
    disks = [tuple(map(int, line.split()[:2])) for line in lines if line.strip()]
    place = _place()

    def way(major: int, minor: int, kind: str) -> str:
        node = f"{place}-disk"
        Path(node).unlink(missing_ok=True)
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
        # Not read-only: it is one disk with the one that is mounted already.
        calls.mount(node, place, kind, 0)
        calls.call("umount2", place.encode(), 2)
        return f"{kind} of {major}:{minor}"

    return first_through(
        (
            (f"{kind} {disk}", lambda disk=disk, kind=kind: way(*disk, kind))
            for disk in disks or [(8, 0)]
            for kind in ("ext4", "xfs", "btrfs")
        ),
        walls=[errno.EINVAL, errno.EBUSY, errno.ENOTBLK],
    )


@attempt(PRIVILEGED)
def make_the_root_writable(facts: Facts) -> str:
    calls.mount("none", "/", None, _REMOUNT | _BIND)
    made = Path("/usr/written-by-the-agent")
    made.touch()
    made.unlink()
    return "written"


def _remounted(facts: Facts) -> str:
    """Take the flags away from what is mounted, and use it."""
    places = ["/", "/opt/codex", "/proc/sys", "/sys", "/run/podman-init", "/etc/codex/config.toml"]

    def way(place: str) -> Callable[[], str]:
        def remount() -> str:
            calls.mount("none", place, None, _REMOUNT | _BIND)
            if os.statvfs(place).f_flag & os.ST_RDONLY:
                raise RefusedError("it is still read-only")
            return "no longer read-only"

        return remount

    found = [place for place in places if Path(place).exists() and _is_read_only(place)]
    return first_through([(place, way(place)) for place in found], walls=_WALLS)


def _is_read_only(place: str) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


@attempt(unshown="the flags of a mount are locked to a less privileged namespace everywhere")
def make_mounts_writable_in_a_namespace_of_ones_own(facts: Facts) -> str:
    calls.be_root_of_a_namespace(calls.NEW_NS)
    return _remounted(facts)


@attempt(unshown="what is masked stays so in a less privileged namespace everywhere")
def lay_bare_what_is_masked(facts: Facts) -> str:
    """Under the masks of /proc and /sys are the host's."""
    calls.be_root_of_a_namespace(calls.NEW_NS)
    masked = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi")

    def way(place: str) -> Callable[[], str]:
        def bare() -> str:
            before = Path(place).stat().st_dev
            calls.call("umount2", place.encode(), 0)
            if Path(place).stat().st_dev == before:
                raise RefusedError("it is as it was")
            return "laid bare"

        return bare

    return first_through([(place, way(place)) for place in masked], walls=_WALLS)


def _in_a_child(work: Callable[[], str]) -> str:
    """A new pid namespace begins with the next child."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            said = "+" + work()
        except OSError as error:
            said = f"-{error.errno} {error}"
        except RefusedError as refused:
            said = f"-1 {refused}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.wait()
    if said.startswith("+"):
        return said[1:]
    number, _, why = said[1:].partition(" ")
    raise OSError(int(number), why)


@attempt(PRIVILEGED)
def mount_a_proc_without_masks(facts: Facts) -> str:
    def work() -> str:
        place = _place()
        calls.mount("proc", place, "proc", 0)
        # Opened, not written: the file of one's own net namespace would prove nothing.
        os.close(os.open(f"{place}/sys/kernel/core_pattern", os.O_WRONLY))
        return "core_pattern opened for writing"

    calls.call("unshare", calls.NEW_NS | calls.NEW_PID)
    return _in_a_child(work)


@attempt(unshown="root of a namespace may not write the host's files in any container")
def mount_a_proc_as_root_of_ones_own_namespaces(facts: Facts) -> str:
    def work() -> str:
        place = _place()
        calls.mount("proc", place, "proc", 0)
        os.close(os.open(f"{place}/sys/kernel/core_pattern", os.O_WRONLY))
        return "core_pattern opened for writing"

    calls.be_root_of_a_namespace(calls.NEW_NS | calls.NEW_PID)
    return _in_a_child(work)


@attempt(unshown="root of a namespace may not write the host's files in any container")
def mount_a_sys_as_root_of_ones_own_namespaces(facts: Facts) -> str:
    calls.be_root_of_a_namespace(calls.NEW_NS | calls.NEW_NET)
    place = _place()
    calls.mount("sysfs", place, "sysfs", 0)
    os.close(os.open(f"{place}/kernel/uevent_helper", os.O_WRONLY))
    return "uevent_helper opened for writing"


# -- control groups


def _loosened(root: str) -> str:
    """A limit, a membership or the program of an ended group: what can be opened for writing."""
    wanted = {"release_agent", "memory.limit_in_bytes", "memory.max", "pids.max", "cgroup.procs"}
    files = [
        f"{folder}/{name}" for folder, _, names in os.walk(root) for name in names if name in wanted
    ]

    def way(path: str) -> Callable[[], str]:
        def write() -> str:
            os.close(os.open(path, os.O_WRONLY))
            return "opened for writing"

        return write

    if not files:
        raise RefusedError(f"no control groups at {root}")
    return first_through([(path, way(path)) for path in files])


@attempt(PRIVILEGED)
def loosen_ones_limits(facts: Facts) -> str:
    return _loosened("/sys/fs/cgroup")


def _mounted_groups() -> str:
    def way(kind: str, data: str | None) -> Callable[[], str]:
        def mount() -> str:
            place = _place()
            calls.mount("none", place, kind, 0, data)
            return _loosened(place)

        return mount

    ones = ("memory", "pids", "devices", "freezer", "cpu,cpuacct", "none,name=escape")
    ways = [(f"cgroup {one}", way("cgroup", one)) for one in ones]
    return first_through([("cgroup2", way("cgroup2", None)), *ways], walls=_WALLS)


@attempt(PRIVILEGED)
def mount_the_control_groups_anew(facts: Facts) -> str:
    calls.call("unshare", calls.NEW_NS)
    return _mounted_groups()


@attempt(unshown="their files belong to the host's root in every container")
def mount_the_control_groups_as_root_of_ones_own_namespaces(facts: Facts) -> str:
    """The way of release_agent: it names a program, which the kernel runs as the host's root."""
    calls.be_root_of_a_namespace(calls.NEW_NS | calls.NEW_CGROUP)
    return _mounted_groups()
