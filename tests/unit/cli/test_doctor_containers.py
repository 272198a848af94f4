"""What `doctor` says of podman, the image, the init and the key, where containers are used."""

from pathlib import Path

import pytest

from supervisor.cli.checks import Verdict, containers
from supervisor.cli.doctor import checks_for, every_check, examined
from supervisor.settings import Settings

FAIL, WARN = Verdict.FAIL, Verdict.WARN


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", codex_home=tmp_path / "codex-home")


def changed(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update=changes)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_only_what_is_used_is_looked_at(settings: Settings) -> None:
    on_the_host = checks_for(settings)
    contained = checks_for(changed(settings, runtime="podman"))
    assert "login" in on_the_host
    assert not on_the_host.keys() & containers.CHECKS.keys()
    assert contained.keys() >= containers.CHECKS.keys()
    assert "login" not in contained


def test_missing_podman_and_init_are_named(settings: Settings, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    podman = settings.podman.model_copy(update={"program": str(nowhere), "init_bin": nowhere})
    without = changed(settings, runtime="podman", podman=podman)
    for name in ("podman", "agent image", "container init"):
        found = examined(every_check()[name], without)
        assert found.verdict is FAIL
        assert found.hint


def test_podman_that_hangs_is_not_waited_for(settings: Settings, tmp_path: Path) -> None:
    slow = script(tmp_path / "podman", "exec sleep 1000")
    podman = settings.podman.model_copy(
        update={
            "program": str(slow),
            "patience_seconds": 0.2,
            "containers_conf": tmp_path / "containers.conf",
        }
    )
    found = examined(containers.podman, changed(settings, runtime="podman", podman=podman))
    assert found.verdict is FAIL
    assert "did not answer" in found.says


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, Verdict.OK), (0o644, WARN), (None, FAIL)], ids=str
)
def test_key_of_the_model_is_for_its_owner(
    settings: Settings, tmp_path: Path, mode: int | None, verdict: Verdict
) -> None:
    key = tmp_path / "key"
    if mode is not None:
        key.write_text("secret-key")
        key.chmod(mode)
    proxy = settings.proxy.model_copy(update={"key_file": key})
    found = containers.model_key(changed(settings, proxy=proxy))
    assert found.verdict is verdict
    assert "secret-key" not in f"{found.says} {found.hint}"
    assert containers.model_key(settings).verdict is WARN
