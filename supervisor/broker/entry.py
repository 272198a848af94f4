"""What subscribers are shown: numbered entries, and the payloads made of them.

Payloads are JSON objects told apart by `type`:

- `event`: `cursor`, `prev` (the cursor before it in this subscription), `message` (a line of the
  app-server as it was, or an event of the supervisor in the same form);
- `snapshot`: `cursor`, `agent`, `threads` with their open items, `approvals`;
- `lagging`: the subscriber did not keep up; `cursor` is the last one delivered, and what follows
  is read again from the spool;
- `expired`: `cursor_expired`; what was asked for can no longer be replayed, a snapshot follows.
"""

import msgspec

from supervisor.ids import Cursor, Epoch
from supervisor.protocol import jsonrpc
from supervisor.protocol.framing import Oversized
from supervisor.protocol.jsonrpc import Kind, Parsed

LINE_REFUSED = "supervisor/lineRefused"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One number of a project. `message` is None where there is nothing to show (an answer)."""

    n: int
    thread_id: str | None
    message: bytes | None


def entry_of(n: int, line: bytes | Oversized, parsed: Parsed) -> Entry:
    """The entry a spooled line makes. What is no message becomes an event that says so."""
    if parsed.kind is Kind.NOTIFICATION or parsed.kind is Kind.REQUEST:
        assert isinstance(line, bytes)
        return Entry(n, parsed.thread_id, line)
    if parsed.kind is Kind.MALFORMED:
        size = line.size if isinstance(line, Oversized) else len(line)
        return Entry(n, None, refused_message(parsed.problem or "too_large", size))
    return Entry(n, None, None)


def refused_message(reason: str, size: int) -> bytes:
    """The event shown in the place of a line that is no message."""
    return msgspec.json.encode(
        {"method": LINE_REFUSED, "params": {"reason": reason, "bytes": size}}
    )


def parse_line(line: bytes | Oversized) -> Parsed:
    """`jsonrpc.parse`, for what the framer yields."""
    if isinstance(line, Oversized):
        return Parsed(kind=Kind.MALFORMED)
    return jsonrpc.parse(line)


def event_payload(epoch: Epoch, entry: Entry, prev: int) -> bytes:
    """An entry as a subscriber gets it; the line itself is not encoded again."""
    assert entry.message is not None
    head = f'{{"type":"event","cursor":"{epoch}.{entry.n}","prev":"{epoch}.{prev}","message":'
    return head.encode() + entry.message + b"}"


def lagging_payload(cursor: Cursor, dropped: int) -> bytes:
    """`dropped` entries left the live queue; they are read again from the spool."""
    return msgspec.json.encode({"type": "lagging", "cursor": str(cursor), "queued": dropped})


def expired_payload(asked: str, oldest: Cursor) -> bytes:
    """The cursor asked for cannot be continued from."""
    return msgspec.json.encode(
        {"type": "expired", "code": "cursor_expired", "asked": asked, "oldest": str(oldest)}
    )
