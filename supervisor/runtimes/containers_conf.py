"""Which containers.conf podman needs on this machine, if any.

Podman's defaults ask for limits that a machine without CAP_SYS_RESOURCE refuses, and some pairs of
OCI runtime and cgroup layout do not go together. Neither can be told from the version, so it is
tried: a container is started from a directory that holds a static init and nothing else, which
takes no image. The file *replaces* the distribution's, and is named to podman by CONTAINERS_CONF;
where a person has set that, do not ask here.

`python -m supervisor.runtimes.containers_conf` prints the text, nothing if podman works as it is.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.errors import ErrorCode, SupervisorError

RUNTIMES: Final = ("crun", "runc")
"""OCI runtimes in the order they are preferred."""
MAXIMUM_NOFILE: Final = 65536
PATIENCE: Final = 30.0
"""Seconds one try may take: the first one after a boot sets up podman's storage."""

INITS: Final = ("/usr/libexec/podman/catatonit", "/usr/bin/catatonit", "/usr/bin/catatonit-static")
"""Where distributions have podman's own init, catatonit."""
_PID_MAX: Final = Path("/proc/sys/kernel/pid_max")


@dataclass(frozen=True, slots=True)
class Limits:
    """What this process may hand on. None: unlimited."""

    hard_nofile: int | None
    hard_nproc: int | None
    pid_max: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out. `complaints` are podman's words, by what was tried: an OCI runtime with
    the limits that fit, or "" for podman as it is. An empty one: the container started."""

    limits: Limits
    complaints: Mapping[str, str]


def containers_conf(facts: Facts) -> str:
    """The text of the file; "" if podman needs none. `agent_start_failed` if nothing worked."""
    for runtime in ("", *RUNTIMES):
        if facts.complaints.get(runtime) == "":
            return text(facts.limits, runtime) if runtime else ""
    said = "; ".join(f"{name or 'as it is'}: {why}" for name, why in facts.complaints.items())
    raise SupervisorError(
        ErrorCode.AGENT_START_FAILED,
        f"podman cannot start a container here ({said})",
        hint="install runc or crun; a containers.conf of your own goes into CONTAINERS_CONF",
        retryable=False,
    )


def text(limits: Limits, runtime: str) -> str:
    """A containers.conf that asks for no more than `limits`."""
    nofile = _least(limits.hard_nofile, MAXIMUM_NOFILE)
    nproc = _least(limits.hard_nproc, limits.pid_max)
    return (
        "[containers]\n"
        f'default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]\n'
        "[engine]\n"
        f'runtime = "{runtime}"\n'
    )


def _least(hard: int | None, wanted: int) -> int:
    return wanted if hard is None else min(hard, wanted)


def probe(start: Callable[[str], str], limits: Limits) -> Facts:
    """Try podman as it is (""), then each OCI runtime with a containers.conf, up to the first that
    works. `start` is given the text and returns podman's complaint, or ""."""
    complaints = {"": start("")}
    for runtime in RUNTIMES:
        if "" in complaints.values():
            break
        complaints[runtime] = start(text(limits, runtime))
    return Facts(limits=limits, complaints=complaints)


def limits_here() -> Limits:
    """This process's own."""
    return Limits(
        hard_nofile=_hard(resource.RLIMIT_NOFILE),
        hard_nproc=_hard(resource.RLIMIT_NPROC),
        pid_max=int(_PID_MAX.read_text()),
    )


def _hard(which: int) -> int | None:
    hard = resource.getrlimit(which)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def start_once(conf: str, *, podman: str = "podman") -> str:
    """Start and remove a container that ends at once, under `conf`, or under podman's defaults if
    it is empty. Returns why it did not start, or "".

    Blocks up to `PATIENCE` seconds, twice that if podman hangs; leaves nothing behind.
    `agent_start_failed` if podman or its init is not installed.
    """
    init = next((path for path in INITS if Path(path).is_file()), None)
    if init is None or shutil.which(podman) is None:
        what = "catatonit" if shutil.which(podman) else "podman"
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            f"{what} is not installed",
            hint=f"install {what}",
            retryable=False,
        )
    with tempfile.TemporaryDirectory(prefix="codex-supervisor-probe-") as name:
        scratch = Path(name)
        rootfs = scratch / "rootfs"
        rootfs.mkdir()
        shutil.copy(init, rootfs / "init")
        return _try(podman, conf, scratch, rootfs)


def _try(podman: str, conf: str, scratch: Path, rootfs: Path) -> str:
    command = [podman]
    if conf:
        file = scratch / "containers.conf"
        file.write_text(conf)
        command = ["env", f"CONTAINERS_CONF={file}", podman]
    name = f"codex-supervisor-probe-{os.getpid()}-{scratch.name.rpartition('-')[2]}"
    argv = [*command, "run", "--rm", "--name", name, "--network", "none", "--rootfs", str(rootfs)]
    try:
        done = _run([*argv, "/init", "--version"])
        return "" if done.returncode == 0 else _last_line(done.stderr)
    except subprocess.TimeoutExpired:
        _remove([*command, "rm", "--force", "--ignore", "--time", "0", name])
        return f"no answer within {PATIENCE:.0f} s"


def _remove(argv: list[str]) -> None:
    try:
        _run(argv)
    except subprocess.TimeoutExpired:
        return  # the sweep by label and name finds it when podman answers again


def _run(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    )


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "podman failed without a word"


def main() -> int:
    """Print the text for a script. The exit status of an error is that of its code."""
    try:
        sys.stdout.write(containers_conf(probe(start_once, limits_here())))
    except SupervisorError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
