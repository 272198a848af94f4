"""The state directory: safe, on a file system that can do what is needed, with a good database."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from supervisor.cli.calling import socket_path
from supervisor.cli.checks import Check, Finding, fail, ok, warn
from supervisor.clock import SystemClock
from supervisor.errors import SupervisorError
from supervisor.settings import Settings

MIB = 1024 * 1024
NO_SPACE = 64 * MIB
LITTLE_SPACE = 1024 * MIB
LOCK_SECONDS = 2.0
"""A supervisor at work holds the database's lock for milliseconds."""


def directory(settings: Settings) -> Finding:
    """Ours alone: whoever writes there rewrites the audit log."""
    path = settings.state_dir
    if not os.path.lexists(path):
        parent = _nearest(path)
        if not os.access(parent, os.W_OK | os.X_OK):
            return fail(
                f"{path} cannot be made: {parent} is not writable", "Name another with state_dir."
            )
        return ok(f"{path} is not there yet, and will be made")
    problem = _unsafe(path)
    if problem is not None:
        return fail(problem.message, problem.hint)
    return ok(f"{path} is yours alone")


def socket(settings: Settings) -> Finding:
    """The kernel takes no longer path for a unix socket."""
    from supervisor.api.unix import MAX_PATH

    path = socket_path(settings)
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        return fail(
            f"{path} has {size} bytes, and a unix socket's path has {MAX_PATH} at most",
            "Name a shorter state_dir.",
        )
    return ok(f"{path}, {size} of {MAX_PATH} bytes")


def token(settings: Settings) -> Finding:
    """Whoever can read it can run commands as you."""
    path = settings.token_file
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ok(f"{path} is not there yet, and will be made")
    except OSError as error:
        return fail(f"{path}: {error.strerror}", "Name another with token_file.")
    if path.is_symlink() or found.st_mode & 0o077:
        return fail(f"others can read {path}", "Remove it: the supervisor makes a new one.")
    return ok(f"{path} is yours alone")


def filesystem(settings: Settings) -> Finding:
    """FIFOs for what goes in, holes in files for what came out."""
    from supervisor.agents.spool import punch

    where = _nearest(settings.state_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=where) as made:
            os.mkfifo(Path(made) / "fifo", 0o600)
            spool = Path(made) / "spool"
            block = Path(made).stat().st_blksize
            spool.write_bytes(b"\n" * 4 * block)
            holes = punch(spool, 2 * block)
    except OSError as error:
        return fail(
            f"{where} cannot hold what is needed: {error.strerror or error}",
            "Put state_dir on a local file system that is writable.",
        )
    if not holes:
        return warn(
            f"no holes can be punched into files in {where}",
            "Output keeps its disk space while codex runs; ext4, xfs, btrfs and tmpfs give it "
            "back.",
        )
    return ok(f"{where} takes FIFOs, and files with holes")


def space(settings: Settings) -> Finding:
    """Nothing is acknowledged that could not be written."""
    where = _nearest(settings.state_dir)
    free = shutil.disk_usage(where).free
    shown = f"{free / MIB:,.0f} MiB free in {where}"
    if free < NO_SPACE:
        return fail(shown, "Make room: without it, projects wait.")
    if free < LITTLE_SPACE:
        return warn(shown, "Output is buffered on disk: keep a gigabyte free.")
    return ok(shown)


def database(settings: Settings) -> Finding:
    """It opens, it is whole, and we know its schema."""
    from supervisor.stores.failures import translated
    from supervisor.stores.migrations import HEAD
    from supervisor.stores.sqlite import inspect

    path = _database(settings)
    if not path.exists():
        return ok(f"{path} is not there yet, and will be made")
    if path.stat().st_uid != os.geteuid() or _unsafe(path.parent) is not None:
        # SQLite would put files of ours beside it.
        return warn(f"{path} was not opened", "See what is said of the state directory.")
    try:
        with translated(f"the database {path}"):
            revision = inspect(path)
            _lock(path)
    except SupervisorError as error:
        return fail(error.message, error.hint)
    if revision is None:
        return ok(f"{path} is empty")
    size = f"{path.stat().st_size / MIB:,.1f} MiB"
    migrated = "" if revision == HEAD else f", to be migrated to {HEAD}"
    return ok(f"{path}, {size}, schema revision {revision}{migrated}")


def _lock(path: Path) -> None:
    """Take the writer's lock for a moment. Raises sqlite3's errors."""
    uri = f"file:{quote(str(path))}?mode=rw"
    opened = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
    with closing(opened) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _database(settings: Settings) -> Path:
    if settings.database_url is None:
        return settings.state_dir / "supervisor.db"
    return Path(settings.database_url.split(":///", 1)[1].split("?", 1)[0])


def _unsafe(path: Path) -> SupervisorError | None:
    """What is wrong with a directory that is there."""
    from supervisor.agents.state_dir import StateDirectory

    try:
        StateDirectory(path, boot_id="", clock=SystemClock())
    except SupervisorError as error:
        return error
    return None


def _nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())


CHECKS: dict[str, Check] = {
    "state directory": directory,
    "socket": socket,
    "token": token,
    "file system": filesystem,
    "disk space": space,
    "database": database,
}
