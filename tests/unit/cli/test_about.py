"""`version` and `schema` need no supervisor."""

import json
import os
from pathlib import Path

import pytest

from supervisor.cli.about import binary_version
from supervisor.cli.main import main
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.rpc.describe import REGISTRY
from supervisor.settings import PINNED_CODEX_VERSION


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_schema_has_every_method(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert set(json.loads(capfd.readouterr().out)["methods"]) == set(REGISTRY)


def test_schema_of_one_method_stands_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "sendMessage"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["$schema"].startswith("https://json-schema.org/")
    assert "threadId" in shown["params"]["properties"]


def test_unknown_method_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", "json", "schema", "no"]) == os.EX_USAGE
    assert json.loads(capfd.readouterr().err)["error"]["code"] == "method_unknown"


def test_version_without_a_codex_is_still_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_SUPERVISOR_CODEX_BIN", str(tmp_path / "none"))
    assert main(["version", "--output", "json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["codex wanted"] == PINNED_CODEX_VERSION
    assert json.loads(shown.out)["codex found"] is None
    assert "there is no codex" in shown.err


def test_version_of_a_binary_is_its_last_word(tmp_path: Path) -> None:
    assert binary_version(script(tmp_path / "codex", "echo codex-cli 1.2.3")) == "1.2.3"


def test_binary_gets_nothing_of_our_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_SUPERVISOR_LOG_LEVEL", "debug")
    fake = script(tmp_path / "codex", 'echo "v${CODEX_SUPERVISOR_LOG_LEVEL}"')
    assert binary_version(fake) == "v"


@pytest.mark.parametrize("text", ["exit 1", "exit 0"])
def test_binary_without_a_version_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SupervisorError) as refused:
        binary_version(script(tmp_path / "codex", text))
    assert refused.value.code is ErrorCode.CODEX_MISSING
