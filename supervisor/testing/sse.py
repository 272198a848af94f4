"""The Responses API's server-sent events, as bytes. Pure."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from supervisor.testing.directives import Call, Patch, Text
from supervisor.testing.numbered import numbered_pieces

DELTAS_A_WRITE: Final = 256
"""Small enough to stay fair to other streams, large enough that the socket is no limit."""

USAGE: Final = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 10},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 150,
}
"""What every response claims to have cost."""


def event(kind: str, **fields: object) -> bytes:
    """One event, with its name and its data."""
    data = msgspec.json.encode({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def created(response_id: str) -> bytes:
    """The first event of a response."""
    return event("response.created", response={"id": response_id})


def completed(response_id: str) -> bytes:
    """The last event of a response."""
    return event("response.completed", response={"id": response_id, "usage": USAGE})


def failed(response_id: str, code: str, message: str) -> bytes:
    """The last event of a response that failed after its headers were sent."""
    error = {"code": code, "message": message}
    return event("response.failed", response={"id": response_id, "error": error})


def message_opened(item_id: str) -> bytes:
    """The message's item begins, empty."""
    item = {"type": "message", "role": "assistant", "id": item_id, "content": []}
    return event("response.output_item.added", output_index=0, item=item)


def message_closed(item_id: str, text: str) -> bytes:
    """The message's item ends, with its text whole."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "role": "assistant", "id": item_id, "content": content}
    return event("response.output_item.done", output_index=0, item=item)


def deltas(item_id: str, text: Text, limit: int | None = None, *, skip: int = 0) -> Iterator[bytes]:
    """One event for each delta from number `skip` on, up to number `limit`."""
    head = b"".join(
        (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",',
            b'"item_id":' + msgspec.json.encode(item_id) + b',"output_index":0,"content_index":0,',
            b'"delta":',
        )
    )
    if text.msg is None:
        # Nothing in a numbered piece needs escaping; this line is most of the model's work.
        pieces: Iterator[bytes] = (
            head + b'"' + piece.encode() + b'"}\n\n'
            for piece in numbered_pieces(text.n, text.size, unicode=text.unicode)
        )
    else:
        pieces = (head + msgspec.json.encode(part) + b"}\n\n" for part in cut(text.msg, text.n))
    return islice(pieces, skip, limit)


def batched(events: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes, `size` events at a time."""
    while batch := b"".join(islice(events, size)):
        yield batch


def cut(message: str, n: int) -> Iterator[str]:
    """`message` in at most `n` parts of one length; the last may be shorter."""
    step = max(1, -(-len(message) // max(1, n)))
    return (message[start : start + step] for start in range(0, len(message), step))


def tool_call(step: Call | Patch, item_id: str, call_id: str) -> bytes:
    """A whole tool call, as one finished item."""
    if isinstance(step, Patch):
        item: dict[str, object] = {
            "type": "custom_tool_call",
            "id": item_id,
            "call_id": call_id,
            "name": "apply_patch",
            "input": step.patch,
        }
    else:
        item = {
            "type": "function_call",
            "id": item_id,
            "call_id": call_id,
            "name": step.name,
            "arguments": step.arguments,
        }
    return event("response.output_item.done", output_index=0, item=item)
