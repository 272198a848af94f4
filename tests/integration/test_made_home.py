"""What a container is made of on disk: the agent's CODEX_HOME, and the files it is pinned to."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.ids import Generation, ProjectId
from supervisor.ports.runtime import Launch
from supervisor.runtimes.containing import Containing
from supervisor.runtimes.spec import ContainerSettings
from supervisor.settings import Settings
from tests.conftest import require
from tests.containers import OWNER


class Made:
    """A project, and all that its containers are made of; programs are stand-ins."""

    def __init__(self, root: Path) -> None:
        self.home = root / "codex-home"
        self.project = root / "project"
        self.project.mkdir()
        os.chown(self.project, OWNER, OWNER)
        self._codex = root / "wheel" / "bin" / "codex"
        self._codex.parent.mkdir(parents=True)
        self._codex.write_bytes(b"codex")
        self._init = root / "catatonit"
        self._init.write_bytes(b"init")
        self._state = root / "state"

    def again(self, **podman: object) -> ContainerSettings:
        """As a supervisor of those settings starts it."""
        settings = Settings.model_validate(
            {"state_dir": self._state, "podman": {"init_bin": self._init, **podman}}
        )
        launch = Launch(
            project=ProjectId("p"),
            generation=Generation(1),
            directory=self.project,
            argv=["codex"],
            env={},
            marker="m",
            stdin=self._state / "in",
            stdout=self._state / "out",
            stderr=self._state / "err",
        )
        return Containing(settings, lambda: self._codex, lambda _: self.home).settings_for(launch)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    require(os.geteuid() == 0, "root, to give files away")
    return Made(tmp_path)


def a_link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def a_dangling_link(place: Path) -> None:
    place.symlink_to("../project/made-by-root")


def a_directory(place: Path) -> None:
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "link").symlink_to("/")


def a_fifo(place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("leave", [a_link, a_dangling_link, a_directory, a_fifo])
def test_nothing_the_agent_left_misleads_the_mount_of_its_config(
    made: Made, leave: Callable[[Path], None]
) -> None:
    made.again()
    assert made.home.stat().st_uid == OWNER
    leave(made.home / "config.toml")
    made.again()
    assert list(made.home.iterdir()) == []
    assert list(made.project.iterdir()) == []


@pytest.mark.parametrize("leave", [a_link, a_directory, Path.touch])
def test_the_environment_the_agent_left_for_codex_is_removed(
    made: Made, leave: Callable[[Path], None]
) -> None:
    made.again()
    leave(made.home / ".env")
    made.again()
    assert list(made.home.iterdir()) == []


def test_a_plain_file_is_left_where_it_is_for_the_mount_to_cover(made: Made) -> None:
    made.again()
    (made.home / "config.toml").write_text("notify = ['evil']")
    made.again()
    assert (made.home / "config.toml").is_file()


def test_containers_of_other_settings_have_other_files(made: Made) -> None:
    walled, bare = made.again(inner_wall="require"), made.again(inner_wall="off")
    assert walled.requirements is not None
    assert bare.requirements is not None
    assert "danger-full-access" not in walled.requirements.read_text()
    assert "danger-full-access" in bare.requirements.read_text()
    assert walled.requirements.stat().st_mode & 0o777 == 0o644
    assert made.again(inner_wall="require").requirements == walled.requirements
