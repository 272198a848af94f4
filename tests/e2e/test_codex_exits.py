"""How the real codex ends when it cannot start, and what the supervisor makes of it."""

import os
import subprocess
from pathlib import Path

import codex_cli_bin
import pytest

from supervisor.lifecycle.restart import ExitFacts, ExitKind, classify

pytestmark = pytest.mark.codex

INITIALIZE = (
    b'{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","version":"1"}}}\n'
    b'{"id":2,"method":"thread/start","params":{}}\n'
)


def started(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(codex_cli_bin.bundled_codex_path()), "app-server", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath, "HOME": str(home.parent), "CODEX_HOME": str(home)},
        cwd=home.parent,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "codex"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["-c", 'model_provider="nope"'], ExitKind.BAD_CONFIG),
        (["-c", 'projects={"half'], ExitKind.BAD_CONFIG),
        (["--no-such-argument"], ExitKind.CODEX_VERSION),
    ],
)
def test_an_app_server_that_refuses_its_configuration_is_classified(
    home: Path, arguments: list[str], kind: ExitKind
) -> None:
    assert ended(home, *arguments) is kind


def test_an_app_server_without_its_home_is_classified(home: Path) -> None:
    home.rmdir()
    assert ended(home) is ExitKind.BAD_CONFIG


def ended(home: Path, *arguments: str) -> ExitKind:
    with started(home, *arguments) as process:
        # Its stdin stays open: it ends by itself.
        assert process.stderr is not None
        stderr = process.stderr.read()
        code = process.wait()
    return classify(ExitFacts(code, None, False, False, False, stderr.decode()))


def test_a_broken_config_file_ends_nothing_and_is_told_at_thread_start(home: Path) -> None:
    (home / "config.toml").write_text("model = [\n")
    with started(home) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(INITIALIZE)
        process.stdin.flush()
        for line in process.stdout:
            if b'"id":2' in line:
                assert b"failed to load configuration" in line
                break
        assert process.poll() is None
        process.stdin.close()
        assert process.wait() == 0
