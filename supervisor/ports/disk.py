"""What bounds a contained project's directories where no file system of their own does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from supervisor.ids import ProjectId


class WatchedTree(msgspec.Struct, frozen=True, kw_only=True):
    """A directory whose bound nothing but looking keeps."""

    name: str
    """For people: "the project", "CODEX_HOME"."""
    directory: Path
    bound: int
    """Bytes on the disk."""
    why: str = ""
    """Why it has no file system of its own; "" where none is wanted."""


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a tree, or as much of it as was needed."""

    verdict: Literal["within", "over", "uncountable"]
    """`uncountable`: it holds more files than can be counted, which is too many."""
    bytes: int
    """On the disk, of what was looked at: all of it where the verdict is `within`."""
    files: int
    """Directories and all else."""
    missed: int = 0
    """Directories that could not be looked into; what is in them is not in `bytes`."""


class Disk(Protocol):
    """Implemented by the runtimes' disk bounds."""

    async def watched(self, project: ProjectId, directory: Path) -> Sequence[WatchedTree]:
        """Of a project whose app-server runs: what has to be watched."""

    async def measure(self, tree: WatchedTree) -> DiskUse:
        """How much it is now, as far as the bound asks. Seconds to minutes; raises nothing."""
