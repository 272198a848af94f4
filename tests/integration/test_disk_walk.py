"""How much a tree takes: as `du` says, and whatever somebody puts in it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor.ports.disk import DiskUse
from supervisor.runtimes.disk_walk import Walk
from tests.conftest import require

GIB = 1 << 30
KIB = 1024


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "tree"
    made.mkdir()
    yield made
    # rm goes as deep as there is; pytest's own way of removing does not.
    subprocess.run(["rm", "-rf", made], check=True)


def walked(walk: Walk, entries: int = 100_000) -> DiskUse:
    while (use := walk.use) is None:
        walk.step(entries)
    return use


def measured(tree: Path, bound: int = GIB, entries: int = 100_000) -> DiskUse:
    return walked(Walk(tree, bound), entries)


def du(tree: Path) -> int:
    said = subprocess.run(
        ["du", "--summarize", "--one-file-system", "--block-size=1", tree],
        capture_output=True,
        check=True,
    )
    return int(said.stdout.split()[0])


def fill(path: Path, kib: int) -> None:
    path.write_bytes(b"x" * kib * KIB)


def deepen(top: Path, names: list[str]) -> int:
    """Make a chain of directories, however long its path; a descriptor of the last one."""
    fd = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def put(fd: int, name: str, kib: int) -> None:
    file = os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, b"x" * kib * KIB)
    os.close(file)


# -- what it takes


@pytest.mark.parametrize("entries", [1, 2, 7, 100_000])
def test_it_takes_what_du_says_in_steps_of_any_size(tree: Path, entries: int) -> None:
    for n in range(5):
        below = tree / f"d{n}" / "e" / "f"
        below.mkdir(parents=True)
        fill(below / "file", 4 * n)
        fill(below.parent / "other", 1)
    assert measured(tree, entries=entries) == DiskUse(
        verdict="within", bytes=du(tree), files=1 + 15 + 10
    )


def test_a_file_of_several_names_counts_once(tree: Path) -> None:
    fill(tree / "one", 100)
    (tree / "sub").mkdir()
    for n in range(10):
        (tree / "sub" / f"{n}").hardlink_to(tree / "one")
    use = measured(tree)
    assert use.bytes == du(tree)
    assert use.bytes < 200 * KIB
    assert use.files == 13


def test_holes_take_nothing(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(10 * GIB)
    assert measured(tree).verdict == "within"


def test_it_ends_as_soon_as_the_bound_is_passed(tree: Path) -> None:
    for n in range(100):
        fill(tree / f"{n}", 64)
    use = measured(tree, bound=1 << 20)
    assert use.verdict == "over"
    assert 1 << 20 < use.bytes < 2 << 20
    assert use.files < 20


def test_what_is_exactly_the_bound_is_within(tree: Path) -> None:
    fill(tree / "file", 64)
    assert measured(tree, bound=du(tree)).verdict == "within"
    assert measured(tree, bound=du(tree) - 1).verdict == "over"


# -- what is not looked at


def test_symlinks_are_not_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    fill(tmp_path / "outside" / "large", 1024)
    (tree / "directory").symlink_to(tmp_path / "outside")
    (tree / "file").symlink_to(tmp_path / "outside" / "large")
    (tree / "itself").symlink_to(tree)
    (tree / "nowhere").symlink_to("/nonexistent")
    use = measured(tree)
    assert (use.files, use.missed) == (5, 0)
    assert use.bytes < 64 * KIB


def test_a_symlink_in_place_of_the_tree_is_not_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert measured(tmp_path / "link") == DiskUse(verdict="within", bytes=0, files=0, missed=1)


def test_another_file_system_is_not_entered(tree: Path) -> None:
    require(os.geteuid() == 0, "root, to mount")
    (tree / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tree / "mnt"], check=True)
    try:
        fill(tree / "mnt" / "large", 1024)
        use = measured(tree)
    finally:
        subprocess.run(["umount", tree / "mnt"], check=True)
    assert use.files == 1
    assert use.bytes < 64 * KIB


def test_nothing_is_opened_that_could_block(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        # Relative, because the names of sockets are short.
        here = os.open(tree, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        assert measured(tree).files == 3


# -- trees made to be walked badly


def test_a_path_longer_than_any_path_can_be_is_followed_to_its_end(tree: Path) -> None:
    fd = deepen(tree, ["n" * 200] * 60)
    put(fd, "deep", 2048)
    os.close(fd)
    use = measured(tree)
    assert (use.files, use.missed) == (62, 0)
    assert use.bytes == du(tree)
    assert measured(tree, bound=1 << 20).verdict == "over"


def test_every_branch_of_a_deep_tree_is_found_again(tree: Path) -> None:
    chain = [f"{n:03}" for n in range(150)]
    os.close(deepen(tree, chain))
    for depth in range(0, 150, 10):
        beside = deepen(tree.joinpath(*chain[:depth]), ["beside"])
        put(beside, "file", 8)
        os.close(beside)
    use = measured(tree, entries=1)
    assert (use.files, use.missed) == (1 + 150 + 30, 0)
    assert use.bytes == du(tree)


def test_names_of_any_bytes_are_walked(tree: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", "ünï".encode(), b" ", b"-rf"):
        made = tree / os.fsdecode(name)
        made.mkdir()
        fill(made / made.name, 1)
    use = measured(tree)
    assert (use.files, use.missed) == (11, 0)


def test_more_files_than_can_be_counted_are_too_many(tree: Path) -> None:
    for n in range(20):
        (tree / f"{n}").touch()
    assert walked(Walk(tree, GIB, most_files=10)).verdict == "uncountable"
    assert walked(Walk(tree, GIB, most_files=21)).verdict == "within"


def test_more_directories_than_can_be_remembered_are_too_many(tree: Path) -> None:
    for n in range(20):
        (tree / f"{n}").mkdir()
    assert walked(Walk(tree, GIB, most_pending=10)).verdict == "uncountable"
    assert walked(Walk(tree, GIB, most_pending=20)).verdict == "within"


def test_more_files_of_several_names_than_can_be_remembered_are_too_many(tree: Path) -> None:
    for n in range(20):
        (tree / f"{n}").touch()
        (tree / f"{n}.too").hardlink_to(tree / f"{n}")
    assert walked(Walk(tree, GIB, most_linked=10)).verdict == "uncountable"
    assert walked(Walk(tree, GIB, most_linked=20)).verdict == "within"


def test_what_may_not_be_read_is_missed_and_the_rest_is_counted(tree: Path) -> None:
    closed, open_ = tree / "closed", tree / "open"
    closed.mkdir()
    open_.mkdir()
    fill(open_ / "file", 512)
    closed.chmod(0)
    use = as_nobody(tree)
    assert use.missed == 1
    assert use.bytes > 512 * KIB


def as_nobody(tree: Path) -> DiskUse:
    """Measured by a user who is not root, since nothing is closed to root."""
    if os.geteuid() != 0:
        return measured(tree)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from supervisor.runtimes.disk_walk import Walk\n"
        "import msgspec\n"
        # Its parents are closed to that user.
        "os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "walk = Walk(Path('.'), 1 << 30)\n"
        "walk.step(10**6)\n"
        "print(msgspec.json.encode(walk.use).decode())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tree], capture_output=True, text=True, check=True
    )
    return msgspec.json.decode(said.stdout, type=DiskUse)


# -- trees that change meanwhile


def test_what_goes_away_meanwhile_does_not_count(tree: Path) -> None:
    for n in range(10):
        (tree / f"{n}").mkdir()
        fill(tree / f"{n}" / "file", 8)
    walk = Walk(tree, GIB)
    # The top and its ten directories by name; none of them entered.
    walk.step(12)
    subprocess.run(["rm", "-rf", *(tree / f"{n}" for n in range(10))], check=True)
    use = walked(walk)
    assert (use.files, use.missed) == (1, 0)


def test_a_directory_that_became_a_symlink_is_not_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    fill(tmp_path / "outside" / "large", 1024)
    (tree / "sub").mkdir()
    walk = Walk(tree, GIB)
    walk.step(2)
    (tree / "sub").rmdir()
    (tree / "sub").symlink_to(tmp_path / "outside")
    assert walked(walk).bytes < 64 * KIB


def test_a_deep_directory_moved_away_under_the_walk_is_told_and_ends_it_in_order(
    tree: Path, tmp_path: Path
) -> None:
    chain = [f"{n:02}" for n in range(60)]
    os.close(deepen(tree, chain))
    beside = deepen(tree.joinpath(*chain[:5]), ["later"])
    put(beside, "file", 8)
    os.close(beside)
    walk = Walk(tree, GIB)
    while walk.files < 60:
        walk.step(1)
    # Below the levels that stay open, and above the place the walk has come to.
    tree.joinpath(*chain[:50]).rename(tmp_path / "moved")
    use = walked(walk)
    assert use.missed == 1
    # What was still to be seen higher up was seen.
    assert use.files in {61, 63}
    subprocess.run(["rm", "-rf", tmp_path / "moved"], check=True)


# -- its own manners


def descriptors(tree: Path) -> int:
    """How many this process has open in the tree."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += each.readlink().is_relative_to(tree)
    return found


def test_it_leaves_no_descriptor_open_however_it_ends(tree: Path) -> None:
    os.close(deepen(tree, [f"{n}" for n in range(100)]))
    measured(tree)
    assert descriptors(tree) == 0
    walk = Walk(tree, GIB)
    walk.step(150)
    assert 0 < descriptors(tree) < 80
    walk.close()
    walk.close()
    assert descriptors(tree) == 0


def test_it_can_be_closed_while_another_thread_walks(tree: Path) -> None:
    for n in range(300):
        (tree / f"{n}").mkdir()
    walk = Walk(tree, GIB)
    thread = threading.Thread(target=walk.step, args=(10**6,))
    thread.start()
    walk.close()
    thread.join()
    walk.step(10)
    assert walk.use is not None
    assert descriptors(tree) == 0


def test_a_tree_that_is_not_there_is_missed(tmp_path: Path) -> None:
    assert measured(tmp_path / "none") == DiskUse(verdict="within", bytes=0, files=0, missed=1)
