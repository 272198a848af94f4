"""How far a project's numbers have been confirmed, beside the store: an older database that was put
in its place is known by it, and gives none of them to another event (DESIGN.md D2).

A small file, written behind each commit in one write(2) and not synced. After a kill it says what
the store says, or less; never more.
"""

import os
from pathlib import Path

from supervisor.ports.store import CheckpointRow


class Reached:
    """Of one project; `directory` is the project's. Raises OSError from `note`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reached"

    def note(self, checkpoint: CheckpointRow) -> None:
        """The store holds this checkpoint."""
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Always as long as before: nothing has to be cut off.
            os.pwrite(fd, b"%s %020d\n" % (checkpoint.epoch.encode(), checkpoint.next_n), 0)
        finally:
            os.close(fd)

    def past(self, checkpoint: CheckpointRow) -> bool:
        """Whether more was confirmed than this checkpoint of the store says. Without the file
        nobody knows: False."""
        try:
            epoch, next_n = self._path.read_text().split()
            reached = int(next_n)
        except (OSError, ValueError):
            return False
        return epoch != checkpoint.epoch or reached > checkpoint.next_n
