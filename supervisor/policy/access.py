"""Who asks, and whether the subject they ask on is theirs."""

import msgspec

LOCAL_ACCOUNT = "local"
"""The account of the person whose computer it is (lite mode)."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller. Comes from the connection, never from what it sends."""

    account: str
    principal: str
    """The person or program: a user name, a token's name."""
    source: str
    """Where from: `unix:uid=0`, `127.0.0.1`."""
    client: str
    """What the client calls itself. A claim."""

    @property
    def at_the_socket(self) -> bool:
        """It came over the unix socket: as root, or as the user the supervisor runs as."""
        return self.source.startswith("unix:")


SUPERVISOR = Principal(
    account="supervisor", principal="supervisor", source="local", client="codex-supervisor"
)
