"""What the kernel says of the end of a process that is nobody's child here."""

import fcntl
import os
import select
import struct

from supervisor.ports.runtime import Exit

# linux/pidfd.h, since Linux 6.13 (the exit status since 6.15): `struct pidfd_info` of 64 bytes,
# mask first, exit_code last.
_INFO = struct.Struct("=QQ11Ii")
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_WITH_EXIT = 1 << 3


def exit_of_stranger(pidfd: int) -> Exit | None:
    """How it ended; None before its parent has reaped it, or from a kernel that does not tell."""
    request = bytearray(_INFO.size)
    _INFO.pack_into(request, 0, _WITH_EXIT, *[0] * 13)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:
        return None
    mask, *_, status = _INFO.unpack(request)
    return exit_of_status(status) if mask & _WITH_EXIT else None


def exit_of_child(pidfd: int) -> Exit | None:
    """How our own child ended, and no zombie any more; None: it is not our child."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Exit(code=result.si_status)
    return Exit(signal=result.si_status)


def exit_of_status(status: int) -> Exit:
    """A wait(2) status, as an `Exit`."""
    if os.WIFSIGNALED(status):
        return Exit(signal=os.WTERMSIG(status))
    return Exit(code=os.WEXITSTATUS(status))


def has_ended(pidfd: int) -> bool:
    """Whether that process has; also for -1, which stands for one that had before."""
    if pidfd < 0:
        return True
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
