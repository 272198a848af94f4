"""Podman without root: whose the copies of what holds the stdio are.

The agent runs as the supervisor's own uid (`--userns=keep-id`), who could read whatever belongs to
it. So the copies belong to another: a uid that /etc/subuid grants the user, which podman's user
namespace lets us give files to. Blocks.
"""

import os
import sys
from pathlib import Path
from typing import Final

from supervisor.runtimes.copies import codex_copy, init_copy
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_records import decoded

KEEP_ID: Final = "keep-id"
SUBORDINATE: Final = 1
"""As podman's user namespace counts: the first of the granted ones. In there, 0 is ourselves."""
_MAPS: Final = ("/proc/self/uid_map", "/proc/self/gid_map")
_COPY: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from supervisor.runtimes.copies import main; main(*sys.argv[2:])"
)


def is_rootless() -> bool:
    """Whether podman would run without root, as we do."""
    return os.geteuid() != 0


def copies(podman: Podman, codex: Path, init: Path, root: Path) -> tuple[Path, Path]:
    """Of the folder of the binary `codex`, and of `init`, as `codex_copy` and `init_copy` say.

    Where the user has no subordinate ids they are our own: then D5 does not hold, as the
    container's `confinement` says. Raises what those raise, and what `Podman.ask` does.
    """
    if not has_subordinates(podman.ask("unshare", "cat", *_MAPS)):
        return codex_copy(codex, root), init_copy(init, root)
    package = str(Path(__file__).parents[2])
    asked = (package, str(codex), str(init), str(root), str(SUBORDINATE))
    said = podman.ask("unshare", sys.executable, "-I", "-S", "-c", _COPY, *asked)
    made = decoded(said, tuple[str, str])
    return Path(made[0]), Path(made[1])


def has_subordinates(maps: str) -> bool:
    """`maps` is the text of a uid_map and a gid_map, one after the other: lines of the first id
    inside, the first outside, and how many."""
    ranges = [[int(part) for part in line.split()] for line in maps.splitlines() if line.strip()]
    return sum(first <= SUBORDINATE < first + count for first, _, count in ranges) == 2
