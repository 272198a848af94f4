"""How a container's app-server ended, from what the kernel, podman and conmon say of its init."""

import contextlib
import os
import signal
import time
from typing import Final

from supervisor.errors import SupervisorError
from supervisor.ports.runtime import Exit
from supervisor.runtimes.pidfd import exit_of_stranger
from supervisor.runtimes.podman_command import Podman

_SIGNALLED: Final = 128
_KERNEL_ASKED: Final = 20
_PODMAN_ASKED: Final = 3
_EVENTS_SINCE: Final = "10m"
"""It has ended just now; a busy supervisor may be late."""
_PAUSE: Final = 0.01
"""Seconds between two looks: conmon has yet to collect its child."""


def exit_of(podman: Podman, container: str, pidfd: int, oom: bool) -> Exit:
    """Blocks. `pidfd` is the ended init's and is closed here, or -1; `oom`: since the last look,
    a process of the container was killed for want of memory. `Exit()` if nobody knows."""
    told = _told_by_kernel(pidfd)
    killed_for_memory = oom
    if told is None or (told.signal == signal.SIGKILL and not oom):
        # Only podman 5 remembers want of memory; only before Linux 6.15 must it tell the code.
        said, remembered = _told_by_podman(podman, container)
        told = told or said
        killed_for_memory = oom or remembered
    if told.signal == signal.SIGKILL and killed_for_memory:
        return Exit(code=told.code, signal=told.signal, oom=True)
    return told


def of_code(code: int) -> Exit:
    """The init passes its child's code on, a signal n as 128+n, which may have been a code."""
    with contextlib.suppress(ValueError):
        return Exit(signal=signal.Signals(code - _SIGNALLED))
    return Exit(code=code)


def _told_by_kernel(pidfd: int) -> Exit | None:
    if pidfd < 0:
        return None
    try:
        for _ in range(_KERNEL_ASKED):
            found = exit_of_stranger(pidfd)
            if found is not None:
                return found if found.code is None else of_code(found.code)
            time.sleep(_PAUSE)
        return None
    finally:
        os.close(pidfd)


def _told_by_podman(podman: Podman, container: str) -> tuple[Exit, bool]:
    for _ in range(_PODMAN_ASKED):
        try:
            state = podman.state(container)
        except SupervisorError:
            return _told_by_events(podman, container), False
        if state.ended:
            return of_code(state.exit_code), state.oom_killed
    # Without conmon, podman believes that it runs for ever.
    return Exit(), False


def _told_by_events(podman: Podman, container: str) -> Exit:
    """Of one that somebody has removed: podman still knows how it died."""
    try:
        events = podman.events(_EVENTS_SINCE)
    except SupervisorError:
        return Exit()
    codes = (e.exit_code for e in reversed(events) if e.id == container)
    code = next((code for code in codes if code is not None), None)
    return Exit() if code is None else of_code(code)
