"""For tests of the podman runtime: a podman that works, an image, and settings of containers."""

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import psutil

from supervisor.errors import SupervisorError
from supervisor.ports.runtime import Launch
from supervisor.runtimes.binary import codex_binary
from supervisor.runtimes.containers_conf import containers_conf, limits_here, probe, start_once
from supervisor.runtimes.containing import init_binary
from supervisor.runtimes.copies import codex_copy, init_copy
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_records import Container
from supervisor.runtimes.podman_start import SERVICE
from supervisor.runtimes.spec import ContainerSettings, Limits, container_name
from supervisor.settings import environment
from tests.conftest import require
from tests.contract.scripted import carriers

BUILD = Path(__file__).parents[1] / "images" / "agent" / "build"
IMAGE = "localhost/codex-supervisor-agent:slim"
OWNER = 23456
"""The uid and gid of the agent: nobody's on this machine."""
CATATONIT = Path("/usr/bin/catatonit")
NO_NAMESPACES = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
            "args": [
                {"index": 0, "value": 1 << 28, "valueTwo": 1 << 28, "op": "SCMP_CMP_MASKED_EQ"}
            ],
        },
    ],
}
LIMITS = Limits(memory_bytes=256 << 20, tmp_bytes=32 << 20)


def require_podman(directory: Path) -> Mapping[str, str]:
    """The environment in which podman works here. `directory` is for the containers.conf."""
    require(os.geteuid() == 0, "root, for rootful podman")
    require(shutil.which("podman") and CATATONIT.is_file(), "podman and catatonit")
    variables = environment()
    if "CONTAINERS_CONF" not in variables and (text := _containers_conf()):
        conf = directory / "containers.conf"
        conf.write_text(text)
        variables = {**variables, "CONTAINERS_CONF": str(conf)}
    _build(variables.get("CONTAINERS_CONF"))
    return variables


@functools.cache
def _build(conf: str | None) -> None:
    """Make the image, or find it made: from nothing it takes a minute."""
    given = {} if conf is None else {"CONTAINERS_CONF": conf}
    made = subprocess.run(
        [BUILD], env={**environment(), **given}, capture_output=True, text=True, check=False
    )
    require(made.returncode == 0, f"the image {IMAGE}: {made.stderr[-500:]}")


@functools.cache
def _containers_conf() -> str:
    try:
        return containers_conf(probe(start_once, limits_here()))
    except SupervisorError as error:
        require(False, error.message)
        raise


class Boxes:
    """Settings of containers for the projects of one test, below one directory of root's."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.run_dir = directory / "run"
        self.podman = Podman(variables, directory=self.run_dir / SERVICE)
        state = directory / "state"
        home = directory / "codex-home"
        folder = directory / "codex"
        for made in (state, home, folder / "bin"):
            made.mkdir(parents=True)
        os.chown(home, OWNER, OWNER)
        self.settings = ContainerSettings(
            image=IMAGE,
            uid=OWNER,
            gid=OWNER,
            codex_folder=folder,
            init=init_copy(CATATONIT.resolve(), directory / "copies"),
            codex_home=home,
            state_dir=state,
            limits=LIMITS,
        )

    def change(self, **changes: object) -> None:
        """Of the settings of containers started from here on."""
        self.settings = msgspec.structs.replace(self.settings, **changes)

    def runtime(self, *, program: str = "podman", patience: float = 60.0) -> PodmanRuntime:
        """One of any number, as successive supervisors have them."""
        return PodmanRuntime(
            self._settings_for, self.run_dir, self.variables, program=program, patience=patience
        )

    def files(self) -> list[Path]:
        """What the runtime keeps of containers."""
        return [path for path in self.run_dir.iterdir() if path.name != SERVICE]

    def of(self, marker: str) -> list[Container]:
        """The containers podman knows of a generation, by label or by name."""
        name = container_name(marker)
        found = self.podman.containers()
        return [each for each in found if each.marker == marker or name in (each.names or ())]

    def forgotten(self) -> set[str]:
        """The ids the OCI runtime knows and podman does not, anybody's."""
        argv = [self.podman.sort().oci, "list", "--quiet"]
        listed = subprocess.run(argv, capture_output=True, text=True, check=True)
        return set(listed.stdout.split()) - {each.id for each in self.podman.containers()}

    def _settings_for(self, launch: Launch) -> ContainerSettings:
        if launch.directory.is_dir():
            os.chown(launch.directory, OWNER, OWNER)
        return self.settings


@contextlib.contextmanager
def podman_in(variables: Mapping[str, str]) -> Iterator[Podman]:
    """A podman whose service does not outlive the test."""
    with tempfile.TemporaryDirectory() as scratch:
        podman = Podman(variables, directory=Path(scratch) / SERVICE)
        yield podman
        podman.close()


def seed_copies(state_dir: Path) -> None:
    """Have the copies of Codex and of the init in it that a supervisor would make, 380 MB each
    time. It verifies them by their hash, as any others."""
    copies = state_dir / "podman" / "copies"
    for directory in (state_dir, copies.parent, copies):
        directory.mkdir(mode=0o700, exist_ok=True)
    for made in _copies().iterdir():
        for path in (made, *made.rglob("*")):
            place = copies / path.relative_to(made.parent)
            if path.is_dir() and not path.is_symlink():
                place.mkdir(mode=0o755)
            else:
                os.link(path, place, follow_symlinks=False)


@functools.cache
def _copies() -> Path:
    """Made once in a run, and removed with it."""
    made = Path(tempfile.mkdtemp(prefix="codex-supervisor-test-copies-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    codex_copy(codex_binary(None).resolve(), made)
    init_copy(init_binary(None), made)
    return made


def containers_of(variables: Mapping[str, str], prefix: str) -> list[str]:
    """The ids of those whose marker begins with `prefix`."""
    with podman_in(variables) as podman:
        found = podman.containers()
    return [container.id for container in found if container.marker.startswith(prefix)]


def remove_containers(variables: Mapping[str, str], prefix: str) -> None:
    """Whatever podman has of generations whose marker begins with `prefix`."""
    with podman_in(variables) as podman:
        for container in podman.containers():
            if container.marker.startswith(prefix):
                podman.remove(container.id)


def keepers(marker: str) -> set[str]:
    """The names of processes that belong to a generation, conmon and the OCI runtime included."""
    return set(named(marker).values())


def named(marker: str) -> dict[psutil.Process, str]:
    """Those processes, by name."""
    found = {}
    for pid in carriers(marker):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            found[process] = process.name()
    return found


def without_namespaces(directory: Path, variables: Mapping[str, str]) -> Path:
    """A containers.conf like that of `variables`, whose containers make no user namespace."""
    profile = directory / "seccomp.json"
    profile.write_text(json.dumps(NO_NAMESPACES))
    told = variables.get("CONTAINERS_CONF")
    text = Path(told).read_text() if told else "[containers]\n"
    line = f'[containers]\nseccomp_profile = "{profile}"\n'
    conf = directory / "strict.conf"
    conf.write_text(re.sub(r"^\[containers\]\n", line, text, count=1, flags=re.MULTILINE))
    return conf
