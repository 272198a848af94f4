"""What is mounted into a container, as it is on disk: symlinks, owners, who could replace it."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Launch
from supervisor.runtimes.sources import check_mounted, held
from supervisor.runtimes.spec import CODEX_BINARY, ContainerSettings, ExtraMount
from tests.conftest import require
from tests.contract.scripted import Scripts

OWNER = 23456
STRANGER = 23457


class Place:
    """All that one container mounts, as it should be; a test spoils one thing of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        for name in ("state/copies/codex/bin", "state/home", "other"):
            (root / name).mkdir(parents=True)
        self.binary = self.state / "copies" / "codex" / "bin" / "codex"
        self.init = self.state / "copies" / "init"
        for path in (self.binary, self.init):
            path.touch()
            path.chmod(0o711)
        self.launch: Launch = Scripts(root, "mounts").launch("", argv=[str(CODEX_BINARY)])
        self.settings = ContainerSettings(
            image="x",
            uid=OWNER,
            gid=OWNER,
            codex_folder=self.binary.parent.parent,
            init=self.init,
            codex_home=self.state / "home",
            state_dir=self.state,
            extra_mounts=[ExtraMount(source=root / "other", destination=Path("/other"))],
        )
        for path in (self.launch.directory, self.settings.codex_home):
            os.chown(path, OWNER, OWNER)

    def replace(self, path: Path) -> None:
        """A symlink to what it was."""
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    require(os.geteuid() == 0, "root, to give files away")
    return Place(tmp_path)


def test_what_is_as_it_should_be_is_held(place: Place) -> None:
    with held(place.settings, place.launch) as found:
        assert set(found) == {place.launch.directory, Path("/codex")}


SPOILED: dict[str, tuple[Callable[[Place], object], ErrorCode]] = {
    "project-symlink": (
        lambda p: p.replace(p.launch.directory),
        ErrorCode.PROJECT_PATH_REFUSED,
    ),
    "project-of-another": (
        lambda p: os.chown(p.launch.directory, STRANGER, OWNER),
        ErrorCode.PROJECT_PATH_REFUSED,
    ),
    "project-gone": (lambda p: p.launch.directory.rmdir(), ErrorCode.AGENT_START_FAILED),
    "home-symlink": (
        lambda p: p.replace(p.settings.codex_home),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "home-of-another": (
        lambda p: os.chown(p.settings.codex_home, STRANGER, OWNER),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "home-gone": (lambda p: p.settings.codex_home.rmdir(), ErrorCode.STATE_DIRECTORY_UNSAFE),
    "state-of-the-agents-user": (
        lambda p: os.chown(p.state, OWNER, 0),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "state-of-the-agents-group": (
        lambda p: (os.chown(p.state, 0, OWNER), p.state.chmod(0o770)),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "state-for-everybody": (lambda p: p.state.chmod(0o777), ErrorCode.STATE_DIRECTORY_UNSAFE),
    "home-in-a-sticky-directory": (
        # Its owner may still move it there.
        lambda p: p.state.chmod(0o1777),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "codex-readable": (lambda p: p.binary.chmod(0o755), ErrorCode.STATE_DIRECTORY_UNSAFE),
    "init-readable": (lambda p: p.init.chmod(0o755), ErrorCode.STATE_DIRECTORY_UNSAFE),
    "init-not-for-others": (lambda p: p.init.chmod(0o700), ErrorCode.STATE_DIRECTORY_UNSAFE),
    "codex-of-the-agents-user": (
        lambda p: os.chown(p.binary.parent.parent, OWNER, 0),
        ErrorCode.STATE_DIRECTORY_UNSAFE,
    ),
    "codex-gone": (lambda p: p.binary.unlink(), ErrorCode.CODEX_MISSING),
    "init-gone": (lambda p: p.init.unlink(), ErrorCode.CODEX_MISSING),
    "extra-symlink": (lambda p: p.replace(p.root / "other"), ErrorCode.SETTINGS_INVALID),
    "extra-gone": (lambda p: (p.root / "other").rmdir(), ErrorCode.SETTINGS_INVALID),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_as_it_should_be_is_refused(place: Place, how: str) -> None:
    spoil, code = SPOILED[how]
    spoil(place)
    with pytest.raises(SupervisorError) as caught, held(place.settings, place.launch):
        pass
    assert caught.value.code is code


def test_a_directory_swapped_between_the_look_and_the_mount_is_noticed(place: Place) -> None:
    # The container's root, as the kernel shows it of its init.
    inside = place.root / "proc" / "42" / "root"
    inside.mkdir(parents=True)
    settings = msgspec.structs.replace(place.settings, mount_point=Path("/work"))
    with held(settings, place.launch) as expected:
        place.settings.codex_home.rename(inside / "codex")
        place.launch.directory.rename(inside / "work")
        check_mounted(42, expected, proc_root=place.root / "proc")
        (inside / "work").rename(inside / "swapped")
        (inside / "work").mkdir()
        with pytest.raises(SupervisorError) as caught:
            check_mounted(42, expected, proc_root=place.root / "proc")
    assert caught.value.code is ErrorCode.PROJECT_PATH_REFUSED
