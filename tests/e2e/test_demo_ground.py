"""Where the demonstration runs its Codex: in a container where one can be started, else on the
host; either way it says so."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.settings import environment
from tests.containers import IMAGE, require_podman

DEADLINE = 120.0
NEEDED = ("sh", "bash", "cat", "cp")
"""Of a person's PATH; no podman among it."""

pytestmark = [pytest.mark.codex, pytest.mark.timeout(180)]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demonstration makes its directory: a unix socket's path must not be long."""
    made = Path(tempfile.mkdtemp(prefix="demo-ground-")).resolve()
    yield made
    shutil.rmtree(made)


def begun(variables: dict[str, str], until: bytes) -> str:
    """The story of a demonstration, interrupted once it has said so; nothing is left of it."""
    argv = [sys.executable, "-m", "supervisor.cli.main", "--output", "json", "demo"]
    with subprocess.Popen(
        argv, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as demo:
        assert demo.stderr is not None
        seen = b""
        while until not in seen:
            piece = os.read(demo.stderr.fileno(), 4096)
            assert piece, seen.decode()
            seen += piece
        demo.send_signal(signal.SIGINT)
        out, rest = demo.communicate(timeout=DEADLINE)
    assert json.loads(out)["verdicts"][-1]["facts"] == ["nothing is left"]
    return (seen + rest).decode()


def test_without_podman_it_says_that_it_runs_on_the_host(place: Path) -> None:
    path = place / "path"
    path.mkdir()
    for name in NEEDED:
        (path / name).symlink_to(shutil.which(name) or name)
    variables = {**environment(), "TMPDIR": str(place), "PATH": str(path)}
    variables.pop("CONTAINERS_CONF", None)
    story = begun(variables, b"on the host: ")
    assert "no container can be started (there is no podman to run)" in story
    assert "in the container" not in story


def test_without_the_image_it_says_so_too(place: Path) -> None:
    variables = {**require_podman(place), "TMPDIR": str(place)}
    # A store without any image: the machine's own is left alone.
    conf = place / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
    )
    story = begun({**variables, "CONTAINERS_STORAGE_CONF": str(conf)}, b"on the host: ")
    assert f"no container can be started (there is no image {IMAGE})" in story


def test_with_podman_it_runs_in_a_container(place: Path) -> None:
    variables = {**require_podman(place), "TMPDIR": str(place)}
    story = begun(variables, b", without a network\n")
    assert "in the container " in story
    assert "on the host" not in story
