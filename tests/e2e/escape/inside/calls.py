"""System calls that Python has no name for, by number, on x86-64 and on arm64."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

_X86_64 = {
    "ptrace": 101,
    "syslog": 103,
    "capset": 126,
    "mount": 165,
    "umount2": 166,
    "reboot": 169,
    "init_module": 175,
    "add_key": 248,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "bpf": 321,
    "userfaultfd": 323,
}
_ARM64 = {
    "umount2": 39,
    "mount": 40,
    "capset": 91,
    "unshare": 97,
    "init_module": 105,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "add_key": 217,
    "keyctl": 219,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "fanotify_mark": 263,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "bpf": 280,
    "userfaultfd": 282,
}
_BOTH = {
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
_NUMBERS = {**(_X86_64 if platform.machine() == "x86_64" else _ARM64), **_BOTH}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

NEW_NS, NEW_CGROUP, NEW_USER, NEW_PID, NEW_NET = (
    0x00020000,
    0x02000000,
    0x10000000,
    0x20000000,
    0x40000000,
)


def names(folder: str) -> list[str]:
    """What is in it. Raises OSError."""
    return [path.name for path in Path(folder).iterdir()]


class Iovec(ctypes.Structure):
    """Where, and how much."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def call(name: str, *arguments: object) -> int:
    """Its result; OSError with its errno."""
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(_NUMBERS[name]), *given))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    call("mount", *texts, flags, None if data is None else data.encode())


def be_root_of_a_namespace(kinds: int) -> None:
    """Enter a user namespace of one's own, and others with it, as its root. Raises OSError.

    It has all rights there also where /proc, being read-only, lets nobody name its root.
    """
    uid, gid = os.getuid(), os.getgid()
    call("unshare", NEW_USER | kinds)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        # One write for each, as the kernel wants it.
        with contextlib.suppress(OSError), Path(f"/proc/self/{name}").open("w") as file:
            file.write(text)
