"""The agent's CODEX_HOME before a start: its owner's, and rid of what the agent left to mislead."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.runtimes.codex_home import give_home, make_home, make_way
from tests.conftest import require
from tests.containers import OWNER


@pytest.fixture
def home(tmp_path: Path) -> Path:
    require(os.geteuid() == 0, "root, to give files away")
    place = tmp_path / "codex-home"
    make_home(place, OWNER, OWNER)
    return place


def a_link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def a_dangling_link(place: Path) -> None:
    place.symlink_to("../made-by-root")


def a_directory(place: Path) -> None:
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "link").symlink_to("/")


def a_fifo(place: Path) -> None:
    os.mkfifo(place)


def test_it_is_given_to_the_projects_new_owner_whole_and_nothing_else_is(home: Path) -> None:
    outside = home.parent / "outside"
    outside.write_text("")
    (home / "deep" / "deeper").mkdir(parents=True)
    (home / "deep" / "file").write_text("")
    (home / "deep" / "link").symlink_to(outside)
    (home / "up").symlink_to("..")
    give_home(home, OWNER + 1, OWNER + 2)
    every = {(p.lstat().st_uid, p.lstat().st_gid) for p in (home, *home.rglob("*"))}
    assert every == {(OWNER + 1, OWNER + 2)}
    assert outside.stat().st_uid == home.parent.stat().st_uid == os.geteuid()


LEFT = [a_link, a_dangling_link, a_directory, a_fifo]


def test_it_is_the_agents_alone_and_stays_so(home: Path) -> None:
    (home / "state").write_text("kept")
    make_home(home, OWNER, OWNER)
    make_way(home)
    assert (home.stat().st_uid, home.stat().st_gid) == (OWNER, OWNER)
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "state").read_text() == "kept"


@pytest.mark.parametrize("leave", LEFT)
def test_nothing_the_agent_left_misleads_the_mount_of_its_config(
    home: Path, leave: Callable[[Path], None]
) -> None:
    leave(home / "config.toml")
    make_way(home)
    assert list(home.iterdir()) == []
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("leave", [*LEFT, Path.touch])
def test_the_environment_the_agent_left_for_codex_is_removed(
    home: Path, leave: Callable[[Path], None]
) -> None:
    leave(home / ".env")
    make_way(home)
    assert list(home.iterdir()) == []


def test_a_plain_file_is_left_where_it_is_for_the_mount_to_cover(home: Path) -> None:
    (home / "config.toml").write_text("notify = ['evil']")
    make_way(home)
    assert (home / "config.toml").is_file()
