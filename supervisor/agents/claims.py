"""What notifications claim, as far as the projection reads it, and how much of it is kept.

The app-server says what a model and a repository make it say, so that nothing it repeats may grow
without end here. What is past a bound is still a line: shown, spooled, numbered. It is not
remembered, makes no row, and is counted.
"""

import msgspec

THREADS_LIMIT = 10_000
"""Threads known by the app-server's word alone; those that clients asked for always are."""
TURNS_LIMIT = 1_000
"""Open turns, likewise."""
OPEN_ITEMS_LIMIT = 512
OPEN_BODIES_LIMIT = 32 * 1024 * 1024
"""Bytes of all open items as they were last seen whole."""
WAITING_LIMIT = 256
"""Server requests that wait for somebody."""
WAITING_BYTES_LIMIT = 16 * 1024 * 1024
"""Bytes of what they ask."""
REQUEST_ID_LIMIT = 200
"""Bytes of a server request's id: clients answer by it."""
ID_LIMIT = 512
"""Characters of the id of a thread, a turn or an item."""
PLACE_LIMIT = 4096
"""Characters of a thread's directory, and of its name."""


class Thread(msgspec.Struct):
    id: str = ""
    cwd: str = ""
    name: str | None = None

    @property
    def named(self) -> str | None:
        """The name, bounded."""
        return cut(self.name)

    @property
    def bounded(self) -> bool:
        """Whether it may be remembered."""
        return 0 < len(self.id) <= ID_LIMIT and len(self.cwd) <= PLACE_LIMIT


class ThreadParams(msgspec.Struct):
    thread: Thread


class Status(msgspec.Struct):
    type: str = ""


class StatusParams(msgspec.Struct):
    status: Status


class NameParams(msgspec.Struct):
    threadName: str | None = None  # noqa: N815  the wire's own name


class Turn(msgspec.Struct):
    id: str = ""
    status: str = ""
    # Not `Raw | None`: msgspec would take null, and nothing else.
    error: msgspec.Raw = msgspec.Raw(b"null")


class TurnParams(msgspec.Struct):
    turn: Turn


class ResolvedParams(msgspec.Struct):
    requestId: msgspec.Raw  # noqa: N815  the wire's own name


def cut(name: str | None) -> str | None:
    """A name people gave, bounded."""
    return None if name is None else name[:PLACE_LIMIT]


def short(*ids: str) -> bool:
    """Whether ids may be remembered."""
    return all(len(each) <= ID_LIMIT for each in ids)
