"""Bytes that come into a spool after its end was handled (DESIGN.md D2): dropped, and counted.

Whoever still holds the descriptor of a dead generation's stdout can write to it: a process that
left both its tree and its environment behind. Nobody reads what it says.
"""

from collections import OrderedDict
from pathlib import Path

from prometheus_client import Counter

SPOOLS_LOOKED_AT = 16
"""Ended generations that are looked at, the newest."""


class LateBytes:
    """Owned by one agent. It looks when asked to: when metrics are read."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._sizes: OrderedDict[Path, int] = OrderedDict()

    def ended(self, spool: Path, size: int) -> None:
        """That spool ended at `size` bytes."""
        self._sizes[spool] = size
        while len(self._sizes) > SPOOLS_LOOKED_AT:
            self._sizes.popitem(last=False)

    def count(self) -> None:
        """Count what came since."""
        for spool, size in list(self._sizes.items()):
            try:
                now = spool.stat().st_size
            except FileNotFoundError:
                del self._sizes[spool]
                continue
            if now > size:
                self._counter.inc(now - size)
                self._sizes[spool] = now
