"""The machine: the interpreter, the kernel, and what the kernel grants."""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from supervisor.cli.checks import Check, Finding, fail, ok, warn
from supervisor.clock import SystemClock
from supervisor.settings import Settings

OLDEST_PYTHON = (3, 11)
FEW_INSTANCES = 64
FEW_WATCHES = 1024
DRIFT_SECONDS = 60.0
INOTIFY_LIMITS = Path("/proc/sys/fs/inotify")
KERNEL = Path("/proc/version")


def python(_: Settings) -> Finding:
    """The interpreter's version."""
    shown = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return fail(shown, "Python 3.11 or newer is needed.")
    return ok(shown)


def system(_: Settings) -> Finding:
    """Linux, WSL2 included."""
    shown = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if not sys.platform.startswith("linux"):
        return fail(shown, "It runs on Linux only; on Windows in WSL2.")
    # WSL1 is no Linux kernel: it has neither pidfd nor holes in files.
    kernel = KERNEL.read_text() if KERNEL.exists() else ""
    if "Microsoft" in kernel and "WSL2" not in kernel:
        return fail(f"{shown}, which is WSL1", "Convert it: `wsl --set-version DISTRO 2`.")
    return ok(shown)


def pidfd(_: Settings) -> Finding:
    """Ends of processes are seen, and signals sent, by descriptor."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return fail(f"pidfd_open does not work: {error}", "Linux 5.4 or newer has it.")
    return ok("processes are watched by descriptor")


def clock(settings: Settings) -> Finding:
    """A clock that went back makes audit records that lie about when."""
    now = SystemClock().now()
    seen = [Path(__file__), settings.state_dir / "last-run"]
    newest = max(path.stat().st_mtime for path in seen if path.exists())
    shown = now.isoformat(timespec="seconds")
    if newest - now.timestamp() > DRIFT_SECONDS:
        later = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
        return warn(
            f"it is {shown}, yet there are files of {later}",
            "Set the clock: audit records carry its time.",
        )
    return ok(shown)


def inotify(_: Settings) -> Finding:
    """Without it, files are polled."""
    from supervisor.agents.watch import POLL_SECONDS, system_inotify

    try:
        system_inotify().close()
    except OSError as error:
        return warn(
            f"no inotify instance is to be had ({error.strerror}): output is polled every "
            f"{POLL_SECONDS * 1000:.0f} ms",
            "Raise fs.inotify.max_user_instances; editors and agents share it.",
        )
    return ok("output is seen as it is written")


def inotify_limits(_: Settings) -> Finding:
    """Each codex takes two instances, the supervisor one for all."""
    try:
        instances = int((INOTIFY_LIMITS / "max_user_instances").read_text())
        watches = int((INOTIFY_LIMITS / "max_user_watches").read_text())
    except (OSError, ValueError) as error:
        return warn(f"cannot be read: {error}", "Nothing, if inotify itself is fine.")
    shown = f"{instances} instances and {watches} watches for each user"
    if instances < FEW_INSTANCES or watches < FEW_WATCHES:
        return warn(shown, "Each codex takes two instances: raise fs.inotify.max_user_instances.")
    return ok(shown)


CHECKS: dict[str, Check] = {
    "python": python,
    "system": system,
    "pidfd": pidfd,
    "clock": clock,
    "inotify": inotify,
    "inotify limits": inotify_limits,
}
