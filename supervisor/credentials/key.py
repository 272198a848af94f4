"""The one credential of the site: where it is, and what is in it now.

It is in no other place of this process than `Key`, and in no other process. It is looked at before
each use, so that a new one is used at once.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.settings_groups import ProxySettings

MAX_BYTES: Final = 16 * 1024
"""The longest tokens in use have about 4 KiB; a header cannot be much longer."""
_KEY: Final = re.compile(rb"[\x21-\x7e]+")

log = get_logger()


def key_path(settings: ProxySettings, environment: Mapping[str, str]) -> Path | None:
    """Where it is; None if there is to be none, as for a model on one's own machine.

    `settings_invalid` for a systemd credential where systemd gave none.
    """
    if settings.credential is None:
        return settings.key_file
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if not directory.startswith("/"):
        raise SupervisorError(
            ErrorCode.SETTINGS_INVALID,
            f"proxy.credential is {settings.credential!r}, but systemd gave no credentials",
            hint="Add LoadCredential= to the unit, or set proxy.key_file.",
        )
    return Path(directory) / settings.credential


class Key:
    """Reads the file again whenever it has changed. Nothing about it is ever printed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._value = ""
        self._warned = False

    def value(self) -> str | None:
        """The key; None if there is to be none. `model_unreachable` if it cannot be read: the one
        before is not used any more, for it may have been revoked."""
        if self._path is None:
            return None
        try:
            if (seen := _marks(self._path.stat())) != self._seen:
                self._seen, self._value = None, ""
                self._value = self._read(self._path)
                self._seen = seen
        except OSError as error:
            self._seen, self._value = None, ""
            raise _unreadable(error.strerror or "it cannot be read") from None
        return self._value

    def present(self) -> bool:
        """Whether requests get one now."""
        try:
            return self.value() is not None
        except SupervisorError:
            return False

    def _read(self, path: Path) -> str:
        # Not blocking: a FIFO would keep everybody waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _unreadable("it is no regular file")
            data = os.read(descriptor, MAX_BYTES + 1).strip()
        finally:
            os.close(descriptor)
        if len(data) > MAX_BYTES or _KEY.fullmatch(data) is None:
            raise _unreadable("it holds no key of one line")
        if found.st_mode & stat.S_IROTH and not self._warned:
            self._warned = True
            log.warning("key_file_open_to_others", path=str(path))
        return data.decode("ascii")


def _marks(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _unreadable(why: str) -> SupervisorError:
    return SupervisorError(
        ErrorCode.MODEL_UNREACHABLE,
        f"the credential for the model cannot be used: {why}",
        hint="See proxy.key_file or proxy.credential.",
    )
