"""How much is measured."""

import msgspec


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one run."""

    requests: int = 5000
    """Round trips of each way."""
    acts: int = 200
    """Turns started, of each way."""
    deltas: int = 20_000
    """Of one turn."""
    streams: int = 5
    """Turns of each way."""
    parsed: int = 400_000
    """Lines."""
    durable: int = 200_000
    """Lines that go through ledger and store."""
    kills: int = 3
    starts: int = 10
    agents: int = 50
    containers: int = 20


QUICK = Size(
    requests=20,
    acts=5,
    deltas=200,
    streams=1,
    parsed=2_000,
    durable=2_000,
    kills=1,
    starts=1,
    agents=3,
    containers=2,
)
"""Shows that everything runs. Its figures mean nothing."""
