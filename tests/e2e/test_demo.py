"""`demo`: it holds, it says so, and it leaves nothing behind, also when it is interrupted."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.settings import environment as own_environment

DEADLINE = 120.0
DEMO = (sys.executable, "-m", "supervisor.cli.main")

pytestmark = [pytest.mark.codex, pytest.mark.timeout(180)]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demonstration makes its directory: a unix socket's path must not be long."""
    made = Path(tempfile.mkdtemp(prefix="demo-test-")).resolve()
    yield made
    shutil.rmtree(made)


def environment(place: Path) -> dict[str, str]:
    return {**own_environment(), "TMPDIR": str(place)}


def begin(place: Path, *options: str, **streams: int) -> subprocess.Popen[bytes]:
    command = [*DEMO, *options]
    return subprocess.Popen(command, env=environment(place), stderr=subprocess.PIPE, **streams)


def left(place: Path) -> list[str]:
    """Processes and files of a demonstration."""
    found = [str(path) for path in place.iterdir()]
    for process in psutil.process_iter():
        try:
            if process.environ().get("CODEX_HOME", "").startswith(str(place)):
                found.append(f"{process.pid} {process.status()}")
        except (psutil.Error, OSError):
            continue
    return found


def test_demo_holds_and_leaves_nothing(place: Path) -> None:
    ended = subprocess.run(
        [*DEMO, "demo"], env=environment(place), capture_output=True, timeout=DEADLINE, check=False
    )

    shown = ended.stdout.decode()
    assert ended.returncode == 0, shown + ended.stderr.decode()
    assert ended.stderr == b""
    assert [line[0] for line in shown.splitlines() if line[:1] in {"✓", "✗"}] == ["✓"] * 3
    for part in ("? Codex asks", "+Hello, world!", "approval.answered", "000119", "SIGKILL"):
        assert part in shown
    assert left(place) == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)]
)
def test_interrupted_demo_leaves_nothing(place: Path, number: signal.Signals, status: int) -> None:
    demo = begin(place, "--output", "json", "demo", stdout=subprocess.PIPE)
    assert demo.stderr is not None
    seen = b""
    while b"000010" not in seen:
        piece = os.read(demo.stderr.fileno(), 4096)
        assert piece, seen.decode()
        seen += piece
    assert left(place) != []

    demo.send_signal(number)
    out, story = demo.communicate(timeout=DEADLINE)

    assert demo.returncode == status, story.decode()
    assert json.loads(out)["verdicts"][-1]["facts"] == ["nothing is left"]
    assert b"Traceback" not in story
    assert left(place) == []


@pytest.mark.parametrize(
    ("answer", "told"), [(b"y\n", "the command ran"), (b"n\n", "the command did not run")]
)
def test_person_at_the_terminal_answers_the_command(place: Path, answer: bytes, told: str) -> None:
    ours, theirs = pty.openpty()
    try:
        demo = begin(place, "--output", "json", "demo", "-i", stdin=theirs, stdout=subprocess.PIPE)
        # Typed ahead: the command's answer first, then the patch's.
        os.write(ours, answer + b"\n")
        out, story = demo.communicate(timeout=DEADLINE)
    finally:
        os.close(ours)
        os.close(theirs)

    assert demo.returncode == 0, story.decode()
    shown = json.loads(out)
    assert [verdict["ok"] for verdict in shown["verdicts"]] == [True] * 3
    assert any(told in fact for fact in shown["verdicts"][0]["facts"])
    assert left(place) == []


def test_demo_without_a_codex_says_so(place: Path) -> None:
    # The wheel's place is taken by an empty module: no other part of the program is touched.
    (place / "fake").mkdir()
    (place / "fake" / "codex_cli_bin.py").write_text(
        "def bundled_codex_path():\n    raise FileNotFoundError('no codex in this wheel')\n"
    )
    ended = subprocess.run(
        [*DEMO, "demo"],
        env={**environment(place), "PYTHONPATH": str(place / "fake")},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )

    assert ended.returncode == os.EX_CONFIG
    assert b"no codex in this wheel" in ended.stderr
    shutil.rmtree(place / "fake")
    assert left(place) == []
