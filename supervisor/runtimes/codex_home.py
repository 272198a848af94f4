"""An agent's CODEX_HOME: a directory of the agent's user, below directories that are ours alone, so
that nobody can put another in its place. What lies in it is the agent's, and hostile. Blocking.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.spec import USER_CONFIG_MOUNT


def make_home(home: Path, uid: int, gid: int) -> None:
    """Make it for `uid`, if it is not there. `agent_start_failed`."""
    with _named(home), suppress(FileExistsError):
        home.mkdir(mode=0o700)
        os.chown(home, uid, gid)


def give_home(home: Path, uid: int, gid: int) -> None:
    """Give all of it to `uid`, where the project has another owner now. `agent_start_failed`.

    The top comes last, so that one that was cut short is done again. Nobody but the old owner's
    agent could make anything there, and it does not run now.
    """
    with _named(home), _opened(home) as top:
        if os.fstat(top).st_uid == uid:
            return
        for _, directories, files, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            for name in (*directories, *files):
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        os.fchown(top, uid, gid)


def make_way(home: Path) -> None:
    """Take away what the agent left there to mislead the next start. `agent_start_failed`.

    What a file is mounted over must be no symlink, which the mount would follow, nor anything that
    stops it; and from .env Codex takes its own environment. The agent does not run now.
    """
    with _named(home), _opened(home) as fd:
        _remove(fd, USER_CONFIG_MOUNT.name, unless=stat.S_ISREG)
        _remove(fd, ".env", unless=lambda _: False)


def _remove(home: int, name: str, unless: Callable[[int], bool]) -> None:
    try:
        mode = os.stat(name, dir_fd=home, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(name, dir_fd=home)
    elif not unless(mode):
        os.unlink(name, dir_fd=home)


@contextmanager
def _opened(home: Path) -> Iterator[int]:
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _named(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED, f"{home} cannot be made ready: {error}"
        ) from error
