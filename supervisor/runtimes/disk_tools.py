"""The system's own tools for file systems in files, and whether they can do their work here."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import msgspec

_TOOLS: Final = ("mkfs.ext4", "e2fsck", "resize2fs", "losetup", "mount", "umount")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Not the person's own: these run as root, and ordinary users' PATH lacks the sbins."""
_PATIENCE: Final = 300.0
"""Seconds. A check of a large image that was cut off takes minutes; a hung one is told."""
_CAP_SYS_ADMIN: Final = 21
_LOOP_CONTROL: Final = Path("/dev/loop-control")
_STATUS: Final = Path("/proc/self/status")


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """How a tool ended."""

    status: int
    output: str
    error: str
    """"" if the status is 0, else what the tool said, in one line."""


def run(name: str, *arguments: str, keep: int | None = None) -> Ran:
    """Run it to its end; `keep` is a descriptor it gets. Raises nothing."""
    try:
        ended = subprocess.run(
            [name, *arguments],
            env={"PATH": _PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
            pass_fds=() if keep is None else (keep,),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Ran(status=-1, output="", error=str(error))
    said = "" if ended.returncode == 0 else _in_a_line(name, ended.stderr or ended.stdout)
    return Ran(status=ended.returncode, output=ended.stdout, error=said)


def doubt(status: Path = _STATUS, loop: Path = _LOOP_CONTROL, path: str = _PATH) -> str:
    """Why images cannot be mounted here, as far as that shows without trying; else ""."""
    if os.geteuid() != 0:
        return "only root can mount an image"
    if not _effective(status) >> _CAP_SYS_ADMIN & 1:
        return "mounting needs CAP_SYS_ADMIN"
    if not loop.exists():
        return f"there are no loop devices here ({loop})"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    return f"{missing[0]} is not installed" if missing else ""


def _effective(status: Path) -> int:
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines.get("CapEff", "0"), 16)


def _in_a_line(name: str, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if "dmesg(1)" not in line]
    text = " ".join(line for line in lines if line)[:500]
    return text or f"{name} failed and did not say why"
