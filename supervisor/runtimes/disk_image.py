"""A directory with a bound that the kernel holds: an ext4 file system in a file, mounted on it.

Root alone can do this, and where it cannot be done the reason is returned (`Cannot`). The file is
made beside its name and renamed once whole, so a crash leaves either nothing or an image; whether
that was ever used its superblock says. One that is in use anywhere is never checked or resized:
another mount namespace (a running container's, or that of a service before its restart) may hold
it, and then the same device is mounted once more.

The agent writes in the file system, never in the file; its own files are not looked at here.
Everything blocks. The caller sees to it that nobody else works on the same image meanwhile.
"""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.runtimes.disk_tools import doubt, run

log = get_logger()

SMALLEST: Final = 16 << 20
"""Bytes. Below, the file system's own tables would take most of it."""
_BLOCK: Final = 4096
_JOURNAL_FROM: Final = 256 << 20
"""From here on mkfs would give more to the journal than a project needs."""
_ROOT_INODE: Final = 2
_CORRECTED: Final = 1
"""The highest status of e2fsck after which the file system is whole."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPTIONS: Final = "loop,nosuid,nodev,discard"
"""`discard`: what is deleted inside is given back to the disk the image is on."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A directory and the image that bounds it. Absolute paths, without symlinks."""

    directory: Path
    """There already, of the owner and mode that the file system's root is to have."""
    image: Path
    """In a directory nobody but us can write in; not below `directory`."""
    size: int | None
    """Bytes, of the file system's own tables too; None: as large as the image is, if there is
    one."""


class Mounted(msgspec.Struct, frozen=True, kw_only=True):
    """The bound holds."""

    size: int
    """Bytes. More than was asked for where a larger image was there: none is ever shrunk."""
    free: int


class Cannot(msgspec.Struct, frozen=True, kw_only=True):
    """There is no image, and none can be made here."""

    why: str


def mount(volume: Volume) -> Mounted | Cannot:
    """Have the image mounted, made or grown first if need be. Idempotent.

    It grows only while nothing uses it, and so is one mended that the kernel made read-only after
    an error of the disk below. `agent_start_failed` where an image that may hold files
    cannot be mounted: without it they would seem to be gone.
    """
    found = find(volume)
    if found is not None:
        if found.size >= (volume.size or 0) and not _read_only(volume.directory):
            return found
        if left := unmount(volume):
            log.warning("disk_image_not_renewed", image=str(volume.image), why=left)
            return found
    if not is_there(volume.image):
        return _make(volume)
    return _mount_again(volume)


def find(volume: Volume) -> Mounted | None:
    """Whether the image is mounted on its directory already."""
    if not is_there(volume.image):
        return None
    with suppress(OSError):
        status = volume.directory.lstat()
        if status.st_ino == _ROOT_INODE and status.st_dev in _devices(volume.image):
            return _mounted(volume)
    return None


def is_there(image: Path) -> bool:
    """False, too, where we may not look."""
    try:
        return image.exists()
    except OSError:
        return False


def unmount(volume: Volume) -> str:
    """Take it off its directory and free the loop device; "" or why it stays. Idempotent.

    Never lazily: what is in use stays, whole.
    """
    if find(volume) is None:
        return ""
    parent, name = volume.directory.parent, volume.directory.name
    try:
        with _opened(parent) as fd:
            target = f"/proc/self/fd/{fd}/{name}"
            said = run("umount", "-n", "-c", target, keep=fd).error
    except OSError as error:
        return str(error)
    return said.replace(target, str(volume.directory))


def _make(volume: Volume) -> Mounted | Cannot:
    if why := doubt():
        return Cannot(why=why)
    if volume.size is None or volume.size < SMALLEST:
        return Cannot(why=f"an image has at least {SMALLEST >> 20} MiB")
    making = volume.image.with_name(f".{volume.image.name}.making")
    try:
        making.unlink(missing_ok=True)
        with _opened(volume.directory) as fd:
            if _occupied(fd):
                return Cannot(why=f"{volume.directory} has files in it, which are left in place")
            if why := _format(making, volume.size, os.fstat(fd)):
                return Cannot(why=why)
            _keep(making, volume.image)
            if why := _attach(volume, fd):
                volume.image.unlink()
                return Cannot(why=why)
    except OSError as error:
        return Cannot(why=str(error))
    finally:
        making.unlink(missing_ok=True)
    return _mounted(volume)


def _format(path: Path, size: int, owner: os.stat_result) -> str:
    """Make the file and the file system in it; "" or why not."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size - size % _BLOCK)
    finally:
        os.close(fd)
    journal = ["-J", "size=16"] if size >= _JOURNAL_FROM else []
    # Nothing is zeroed: what was never written of a file is zeros.
    lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    extended = f"root_owner={owner.st_uid}:{owner.st_gid},{lazy}"
    # An inode for every 8 KiB: projects are made of small files. None of it is root's reserve.
    layout = ["-b", str(_BLOCK), "-i", "8192", "-m", "0", *journal, "-E", extended]
    return run("mkfs.ext4", "-q", "-F", *layout, str(path)).error


def _keep(making: Path, image: Path) -> None:
    """Whole, and on the disk, before it has its name."""
    with _opened(making.parent) as directory:
        fd = os.open(making, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        making.rename(image)
        os.fsync(directory)


def _mount_again(volume: Volume) -> Mounted | Cannot:
    """An image of an earlier time: before a reboot, or a crash between any two steps."""
    try:
        why = doubt() or _mount_checked(volume)
        if why and _superblock(volume.image).unused:
            volume.image.unlink()
            return Cannot(why=why)
    except OSError as error:
        why = str(error)
    if why:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            f"{volume.directory} has its files in {volume.image}, which cannot be mounted: {why}",
            hint="Mend what is said (e2fsck IMAGE shows more), then restart the project.",
        )
    return _mounted(volume)


def _mount_checked(volume: Volume) -> str:
    with _opened(volume.directory) as fd:
        if _occupied(fd):
            return "files lie in the directory, which it would hide: move them away"
        if not _devices(volume.image):
            why = _check(volume.image) or _grow(volume)
            if why:
                return why
        return _attach(volume, fd)


def _check(image: Path) -> str:
    checked = run("e2fsck", "-p", str(image))
    return "" if checked.status <= _CORRECTED else checked.error


def _grow(volume: Volume) -> str:
    """To the size asked for; never shrinks. A crash in here is mended by the next call."""
    wanted = (volume.size or 0) // _BLOCK * _BLOCK
    size = _superblock(volume.image).size
    if wanted <= size:
        if volume.size is not None and wanted < size:
            log.warning("disk_image_not_shrunk", image=str(volume.image), size=size, wanted=wanted)
        return ""
    os.truncate(volume.image, max(wanted, volume.image.stat().st_size))
    checked = run("e2fsck", "-f", "-p", str(volume.image))
    if checked.status > _CORRECTED:
        return checked.error
    return run("resize2fs", str(volume.image), f"{wanted // 1024}K").error


def _attach(volume: Volume, fd: int) -> str:
    """Mount it on the very directory that `fd` is; "" or why not."""
    used_before = not _superblock(volume.image).unused
    below = os.fstat(fd)
    target = f"/proc/self/fd/{fd}"
    argv = ("mount", "-n", "-c", "-t", "ext4", "-o", _OPTIONS, str(volume.image), target)
    if why := run(*argv, keep=fd).error:
        return why.replace(target, str(volume.directory))
    with _opened(volume.directory) as root:
        if os.fstat(root).st_dev not in _devices(volume.image):
            raise NotADirectoryError(f"{volume.directory} was replaced meanwhile")
        _tidy(root)
        if not used_before:
            os.fchmod(root, stat.S_IMODE(below.st_mode))
    return ""


def _tidy(root: int) -> None:
    """Take away the empty lost+found that mkfs and e2fsck make; nothing that is the agent's."""
    with suppress(OSError):
        found = os.stat("lost+found", dir_fd=root, follow_symlinks=False)
        if found.st_uid == 0:
            os.rmdir("lost+found", dir_fd=root)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The directory itself, reached by no symlink whoever owns what is above it. OSError."""
    fd = os.open(directory, _DIRECTORY)
    try:
        real = Path(f"/proc/self/fd/{fd}").readlink()
        if real != directory:
            raise NotADirectoryError(f"{directory} leads elsewhere by a symlink: {real}")
        yield fd
    finally:
        os.close(fd)


def _occupied(fd: int) -> bool:
    with os.scandir(fd) as entries:
        return next(entries, None) is not None


def _read_only(directory: Path) -> bool:
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _devices(image: Path) -> set[int]:
    """The loop devices that hold the image, in whatever mount namespace they are in use."""
    listed = run("losetup", "-n", "-O", "NAME", "-j", str(image))
    return {Path(name).stat().st_rdev for name in listed.output.split()}


def _mounted(volume: Volume) -> Mounted:
    space = os.statvfs(volume.directory)
    free = space.f_bavail * space.f_frsize
    return Mounted(size=_superblock(volume.image).size, free=free)


class _Superblock(msgspec.Struct, frozen=True):
    size: int
    """Bytes of the file system; the file is larger where growing was cut short."""
    unused: bool
    """Never mounted: there is nothing in it."""


def _superblock(image: Path) -> _Superblock:
    """Raises OSError, also for what is no ext4."""
    with image.open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    if len(block) < 1024 or block[56:58] != b"\x53\xef":
        raise OSError(f"{image} is no ext4 image")
    blocks, log_size, mounted_at = (struct.unpack_from("<I", block, n)[0] for n in (4, 24, 44))
    high = struct.unpack_from("<I", block, 0x150)[0]
    return _Superblock(((high << 32) + blocks) << (10 + log_size), mounted_at == 0)
