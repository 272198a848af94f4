"""Why no container can be started here, in words that are true."""

from pathlib import Path

import pytest

from supervisor.runtimes.readiness import why_no_containers
from supervisor.settings import Settings


@pytest.mark.parametrize("conf", [{}, {"CONTAINERS_CONF": "/nowhere/containers.conf"}], ids=str)
def test_a_podman_that_is_missing_is_not_taken_for_a_missing_image(
    tmp_path: Path, conf: dict[str, str]
) -> None:
    (tmp_path / "init").touch()
    podman = {"program": str(tmp_path / "podman"), "init_bin": str(tmp_path / "init")}
    settings = Settings.model_validate({"podman": podman})
    told = why_no_containers(settings, {"PATH": str(tmp_path), **conf})
    assert told == f"there is no {tmp_path}/podman to run"
