"""What `doctor` says of limits: by what podman said of machines of each kind."""

import shlex
from pathlib import Path

import pytest

from supervisor.cli.checks import Finding, Verdict
from supervisor.cli.doctor import every_check, examined
from supervisor.settings import Settings

RECORDED = Path(__file__).parents[1] / "runtimes" / "data" / "info"


def said(tmp_path: Path, kind: str, *, required: bool) -> Finding:
    """With a podman that answers as that machine's did."""
    podman = tmp_path / "podman"
    podman.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(RECORDED / kind))}.json\n")
    podman.chmod(0o755)
    told = {
        "program": str(podman),
        "containers_conf": str(tmp_path / "containers.conf"),
        "require_limits": required,
    }
    settings = Settings.model_validate({"runtime": "podman", "podman": told})
    return examined(every_check()["container limits"], settings)


@pytest.mark.parametrize("kind", ["v1-rootful", "v2-rootful"])
def test_where_they_hold_it_says_by_what(tmp_path: Path, kind: str) -> None:
    found = said(tmp_path, kind, required=True)
    assert found.verdict is Verdict.OK
    assert kind[:2] in found.says


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("v1-rootless", "ignores all limits"),
        ("v2-rootless", "no limit is in force on cpu"),
        ("v2-rootless-undelegated", "memory, pids, cpu"),
    ],
)
def test_where_they_do_not_it_says_why_and_fails_if_they_are_required(
    tmp_path: Path, kind: str, words: str
) -> None:
    for required, verdict in ((False, Verdict.WARN), (True, Verdict.FAIL)):
        found = said(tmp_path, kind, required=required)
        assert found.verdict is verdict
        assert words in found.says
        assert found.hint
