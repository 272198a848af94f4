"""Look for words everywhere: in files, in the environment, the words and the memory of processes.

Inside a container: `python3 -m tests.e2e.escape.inside.search WORDS RESULTS`. The words stand
reversed in their file, so that the search does not find them where it was told of them.
"""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 4 << 20

Found = list[list[str]]
"""For each word, where it was."""


def in_content(content: bytes, words: list[bytes]) -> set[int]:
    """Which of them it has."""
    return {at for at, word in enumerate(words) if word in content}


def in_file(path: Path, words: list[bytes]) -> set[int]:
    """As `in_content`, of a regular file, or one of /proc. Raises OSError."""
    found: set[int] = set()
    longest = max(map(len, words))
    with path.open("rb", buffering=0) as file:
        before = b""
        while chunk := file.read(_CHUNK):
            found |= in_content(before + chunk, words)
            before = chunk[-longest:]
    return found


def in_memory(pid: int, words: list[bytes]) -> set[int]:
    """Of all that a process can write, or has written. Raises OSError."""
    found: set[int] = set()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _areas(pid):
            with contextlib.suppress(OSError, OverflowError):
                # Some, as those of devices, cannot be read.
                for at in range(start, end, _CHUNK):
                    memory.seek(at)
                    # Past the end of a chunk, for a word that begins in it.
                    found |= in_content(memory.read(min(end - at, _CHUNK + 256)), words)
    return found


def _areas(pid: int) -> Iterator[tuple[int, int]]:
    """What of its memory is there at all, but code and constants."""
    start = end = 0
    wanted = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            wanted = "r" in rest[0] and ("w" in rest[0] or len(rest) < 5)
        elif first == "Rss:" and wanted and rest[0] != "0":
            yield start, end


def in_process(pid: int, words: list[bytes]) -> dict[str, set[int]]:
    """By place, as far as they can be read."""
    found = {}
    for name in ("environ", "cmdline"):
        with contextlib.suppress(OSError):
            found[f"{pid}/{name}"] = in_file(Path(f"/proc/{pid}/{name}"), words)
    with contextlib.suppress(OSError):
        found[f"{pid}/mem"] = in_memory(pid, words)
    return found


def in_tree(root: Path, words: list[bytes]) -> dict[str, set[int]]:
    """In every file below, and in its name; but /proc and /sys."""
    found = {}
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if f"{folder}/{name}" not in ("//proc", "//sys")]
        for path in (Path(folder, name) for name in names):
            found[str(path)] = in_content(os.fsencode(path), words)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    found[str(path)] |= in_file(path, words)
    return found


def listed(places: dict[str, set[int]], words: list[bytes]) -> Found:
    """By word instead."""
    return [sorted(p for p, found in places.items() if at in found) for at in range(len(words))]


def main(argv: list[str]) -> None:
    """All that is to be seen from here."""
    told = json.loads(Path(argv[0]).read_text())
    words = [word[::-1].encode() for word in told]
    places = in_tree(Path("/"), words)
    for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
        if pid != os.getpid():
            places |= in_process(pid, words)
    Path(argv[1]).write_text(json.dumps(listed(places, words)))


if __name__ == "__main__":
    main(sys.argv[1:])
