"""A directory bounded by an image, with real loop devices: made, found again, mended, let go."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.disk_image import Cannot, Mounted, Volume, find, mount, unmount
from supervisor.runtimes.disk_tools import doubt
from tests.conftest import require
from tests.contract.scripted import until

MIB = 1 << 20
OWNER = 23456


@dataclass
class Place:
    """One volume of the test, and what the kernel says of it."""

    volume: Volume

    @property
    def directory(self) -> Path:
        return self.volume.directory

    @property
    def image(self) -> Path:
        return self.volume.image

    @property
    def making(self) -> Path:
        return self.image.with_name(f".{self.image.name}.making")

    def sized(self, mib: int | None) -> Volume:
        return msgspec.structs.replace(self.volume, size=None if mib is None else mib * MIB)

    def mounted(self, mib: int | None = 32) -> Mounted:
        got = mount(self.sized(mib))
        assert isinstance(got, Mounted), got
        return got

    def refused(self, mib: int | None = 32) -> str:
        got = mount(self.sized(mib))
        assert isinstance(got, Cannot)
        return got.why

    def lines(self) -> list[str]:
        """Of the mount table: every mount on the directory."""
        table = Path("/proc/self/mountinfo").read_text().splitlines()
        shown = str(self.directory).replace(" ", "\\040")
        return [line for line in table if line.split()[4] == shown]

    def loops(self) -> list[str]:
        argv = ["losetup", "-n", "-O", "NAME", "-j", self.image]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    def clear(self) -> None:
        while self.lines():
            subprocess.run(["umount", self.directory], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    require(not doubt(), f"what images need: {doubt()}")
    directory = tmp_path / "codex home"
    directory.mkdir(mode=0o700)
    os.chown(directory, OWNER, OWNER)
    made = Place(Volume(directory=directory, image=tmp_path / "home.ext4", size=32 * MIB))
    yield made
    made.clear()


def filled(directory: Path) -> int:
    """The errno of the write that found no room."""
    with (directory / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError as error:
            return error.errno or 0


# -- a new one


def test_the_directory_holds_so_much_and_no_more(place: Place) -> None:
    got = place.mounted()
    assert got.size == 32 * MIB
    assert 24 * MIB < got.free < 32 * MIB
    assert filled(place.directory) == errno.ENOSPC
    assert (place.directory / "filler").stat().st_size < 32 * MIB


def test_it_looks_as_the_directory_did(place: Place) -> None:
    before = place.directory.stat()
    place.mounted()
    after = place.directory.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
    # No lost+found.
    assert list(place.directory.iterdir()) == []


def test_nothing_in_it_is_a_device_or_gives_rights_and_programs_run(place: Place) -> None:
    place.mounted()
    (line,) = place.lines()
    options = line.split()[5].split(",")
    assert {"nosuid", "nodev"} <= set(options)
    assert "noexec" not in options
    assert stat.S_IMODE(place.image.stat().st_mode) == 0o600


async def test_the_image_takes_what_is_used_and_gives_back_what_is_deleted(place: Place) -> None:
    place.mounted(1024)
    (place.directory / "file").write_bytes(b"x" * 64 * MIB)
    flush(place.directory)
    assert 64 * MIB < taken(place.image) < 128 * MIB
    (place.directory / "file").unlink()
    flush(place.directory)
    await until(lambda: taken(place.image) < 64 * MIB)


def flush(directory: Path) -> None:
    subprocess.run(["sync", "--file-system", directory], check=True)


def taken(image: Path) -> int:
    return image.stat().st_blocks * 512


async def test_it_goes_without_a_trace_but_the_image(place: Place) -> None:
    place.mounted()
    assert unmount(place.volume) == ""
    assert place.lines() == []
    await until(lambda: not place.loops())
    assert unmount(place.volume) == ""


# -- found again


def test_one_that_is_mounted_is_left_as_it_is(place: Place) -> None:
    place.mounted()
    (place.directory / "file").write_text("kept")
    before = place.lines()
    place.mounted()
    place.mounted(None)
    assert place.lines() == before
    assert find(place.volume) is not None
    assert (place.directory / "file").read_text() == "kept"


def test_after_a_reboot_it_is_mounted_with_its_files(place: Place) -> None:
    place.mounted()
    (place.directory / "file").write_text("kept")
    place.clear()
    assert find(place.volume) is None
    place.mounted()
    assert (place.directory / "file").read_text() == "kept"
    assert list(place.directory.iterdir()) == [place.directory / "file"]


def test_one_cut_off_by_a_power_failure_is_mended(place: Place) -> None:
    place.mounted()
    (place.directory / "file").write_text("kept")
    flush(place.directory)
    # What a disk holds of one in use.
    torn = place.image.with_suffix(".torn")
    subprocess.run(["cp", "--sparse=always", place.image, torn], check=True)
    place.clear()
    torn.replace(place.image)
    place.mounted()
    assert (place.directory / "file").read_text() == "kept"


def test_a_half_made_one_is_made_anew(place: Place) -> None:
    place.making.write_bytes(b"half" * 1000)
    place.mounted()
    assert not place.making.exists()


def test_a_whole_one_that_was_never_mounted_is_used(place: Place) -> None:
    argv = ["mkfs.ext4", "-q", "-F", "-E", f"root_owner={OWNER}:{OWNER}", place.image, "32M"]
    subprocess.run(argv, check=True, env={"PATH": "/usr/sbin:/sbin"})
    place.mounted()
    assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
    assert list(place.directory.iterdir()) == []


def test_one_in_use_elsewhere_is_mounted_once_more_and_not_checked(place: Place) -> None:
    place.mounted()
    # As a container, or the unit before its restart, has it.
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'echo up; read line; cat "$0/from here"',
        place.directory,
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as elsewhere:
        assert elsewhere.stdout is not None
        assert elsewhere.stdout.readline() == "up\n"
        (loop,) = place.loops()
        assert unmount(place.volume) == ""
        assert place.loops() == [loop]
        # Nor resized.
        assert place.mounted(64).size == 32 * MIB
        assert place.loops() == [loop]
        (place.directory / "from here").write_text("seen there")
        said, _ = elsewhere.communicate("\n", timeout=30)
    assert said == "seen there"


# -- its size


def test_it_grows_with_the_setting_and_keeps_its_files(place: Place) -> None:
    place.mounted(32)
    (place.directory / "file").write_text("kept")
    assert place.mounted(64).size == 64 * MIB
    assert place.mounted(64).free > 48 * MIB
    assert (place.directory / "file").read_text() == "kept"
    assert list(place.directory.iterdir()) == [place.directory / "file"]
    assert len(place.lines()) == 1


def test_it_is_never_shrunk(place: Place) -> None:
    place.mounted(64)
    assert place.mounted(32).size == 64 * MIB
    place.clear()
    assert place.mounted(32).size == 64 * MIB
    assert place.mounted(None).size == 64 * MIB


def test_growing_that_was_cut_short_is_done_again(place: Place) -> None:
    place.mounted(32)
    place.clear()
    os.truncate(place.image, 64 * MIB)
    assert place.mounted(64).size == 64 * MIB


def test_one_in_use_stays_whole_and_grows_when_it_can(place: Place) -> None:
    place.mounted(32)
    with (place.directory / "file").open("w") as file:
        assert "busy" in unmount(place.volume)
        assert str(place.directory) in unmount(place.volume)
        assert place.mounted(64).size == 32 * MIB
        file.write("still there")
    assert (place.directory / "file").read_text() == "still there"
    assert place.mounted(64).size == 64 * MIB


@pytest.mark.parametrize("mib", [1, 8, 1 << 29])
def test_a_size_that_cannot_be_is_told_and_leaves_nothing(place: Place, mib: int) -> None:
    assert place.refused(mib)
    assert list(place.image.parent.iterdir()) == [place.directory]


# -- files that are there


def test_files_in_the_directory_are_never_moved_or_hidden(place: Place) -> None:
    (place.directory / "theirs").write_text("kept")
    assert "has files in it" in place.refused()
    assert (place.directory / "theirs").read_text() == "kept"
    assert list(place.image.parent.iterdir()) == [place.directory]


def test_files_that_an_image_would_hide_are_told_and_left(place: Place) -> None:
    place.mounted()
    (place.directory / "in the image").touch()
    place.clear()
    (place.directory / "below").touch()
    with pytest.raises(SupervisorError, match="move them away") as caught:
        mount(place.volume)
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert (place.directory / "below").exists()
    (place.directory / "below").unlink()
    place.mounted()
    assert (place.directory / "in the image").exists()


def test_a_damaged_image_is_told_and_left_as_it_is(place: Place) -> None:
    place.mounted()
    place.clear()
    with place.image.open("r+b") as file:
        file.write(b"\0" * MIB)
    damaged = place.image.read_bytes()
    with pytest.raises(SupervisorError, match="cannot be mounted"):
        mount(place.volume)
    assert place.image.read_bytes() == damaged
    assert place.lines() == []


def test_what_the_agent_calls_lost_and_found_is_its_own(place: Place) -> None:
    place.mounted()
    own = place.directory / "lost+found"
    own.mkdir()
    os.chown(own, OWNER, OWNER)
    place.clear()
    place.mounted()
    assert own.is_dir()


def test_a_symlink_of_the_agent_is_not_followed(place: Place, tmp_path: Path) -> None:
    place.mounted()
    outside = tmp_path / "outside"
    outside.mkdir()
    (place.directory / "lost+found").symlink_to(outside)
    place.clear()
    place.mounted()
    assert outside.is_dir()
    assert (place.directory / "lost+found").is_symlink()


def test_a_directory_reached_by_a_symlink_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path)
    leading = msgspec.structs.replace(place.volume, directory=tmp_path / "way" / "codex home")
    got = mount(leading)
    assert isinstance(got, Cannot)
    assert "symlink" in got.why
    (tmp_path / "end").symlink_to(place.directory)
    assert isinstance(mount(msgspec.structs.replace(leading, directory=tmp_path / "end")), Cannot)
    assert place.lines() == []
    assert not place.image.exists()


# -- where it cannot be done

WITHOUT = {
    "an ordinary user": "os.setgroups([]); os.setgid(65534); os.setuid(65534)",
    "root without CAP_SYS_ADMIN": "drop()",
}
CODE = """
import ctypes, os, sys
from pathlib import Path
import msgspec
from supervisor.errors import SupervisorError
from supervisor.runtimes.disk_image import Volume, mount

def drop():
    # capget, capset: all of it but CAP_SYS_ADMIN.
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for part in (0, 1, 2):
        data[part] &= ~(1 << 21)
    assert libc.capset(header, data) == 0

{drop}
volume = Volume(directory=Path(sys.argv[1]), image=Path(sys.argv[2]), size=32 << 20)
try:
    print(mount(volume))
except SupervisorError as error:
    print(error.code, error.message)
"""


@pytest.mark.parametrize("drop", WITHOUT.values(), ids=WITHOUT.keys())
def test_who_cannot_mount_is_told_why(place: Place, drop: str) -> None:
    said = elsewhere(place, drop)
    assert said.startswith("Cannot(why='")
    assert "only root" in said or "CAP_SYS_ADMIN" in said
    assert not place.image.exists()


def test_who_cannot_mount_does_not_go_on_without_the_files_of_an_image(place: Place) -> None:
    place.mounted()
    place.clear()
    said = elsewhere(place, "drop()")
    assert said.startswith("agent_start_failed")
    assert "needs CAP_SYS_ADMIN" in said


def elsewhere(place: Place, drop: str) -> str:
    argv = [sys.executable, "-c", CODE.replace("{drop}", drop), place.directory, place.image]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_a_missing_tool_or_device_is_named(place: Place, tmp_path: Path) -> None:
    assert doubt(loop=tmp_path / "none") == f"there are no loop devices here ({tmp_path / 'none'})"
    assert doubt(path=str(tmp_path)) == "mkfs.ext4 is not installed"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mkfs.ext4", "e2fsck", "resize2fs"):
        found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert found is not None
        (tools / name).symlink_to(found)
    assert doubt(path=str(tools)) == "losetup is not installed"
