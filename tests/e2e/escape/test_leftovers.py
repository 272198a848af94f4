"""The look for what tests leave behind sees each kind of it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.settings import environment
from tests.conftest import SESSION
from tests.containers import IMAGE, require_podman
from tests.leftovers import Leftovers

SLEEP = ["sleep", "600"]


@contextmanager
def a_process(directory: Path) -> Iterator[None]:
    with subprocess.Popen(SLEEP, env={SESSION: f"of {directory}"}) as process:
        yield
        process.kill()


@contextmanager
def a_mount(directory: Path) -> Iterator[None]:
    place = directory / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    yield
    subprocess.run(["umount", place], check=True)


@contextmanager
def a_process_with_its_own_mounts(directory: Path) -> Iterator[None]:
    (directory / "bound").mkdir()
    script = f"mount --bind {directory}/bound {directory}/bound && echo bound && exec sleep 600"
    argv = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"bound\n"
        yield
        process.kill()


@contextmanager
def a_socket(directory: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(directory / "s"))
        one.listen()
        yield


@contextmanager
def a_container(directory: Path) -> Iterator[None]:
    """One that was never started."""
    name = f"left-over-{os.getpid()}"
    line = ["podman", "create", "--name", name, "--volume", f"{directory}:/x", IMAGE, "true"]
    env = require_podman(directory)
    subprocess.run(line, check=True, capture_output=True, env=env)
    yield
    subprocess.run(["podman", "rm", name], check=True, capture_output=True, env=env)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (a_process, "process"),
        (a_process_with_its_own_mounts, "process"),
        (a_mount, "mount"),
        (a_socket, "socket"),
        (a_container, "container"),
    ],
)
def test_what_is_left_is_told(tmp_path: Path, kind: object, told: str) -> None:
    variables = require_podman(tmp_path)
    looking = Leftovers(tmp_path, f"of {tmp_path}", {**environment(), **variables})
    assert looking.found() == []
    with kind(tmp_path):  # type: ignore[operator]
        assert {what.split()[0] for what in looking.found()} == {told}
    assert looking.once_settled() == []
