"""The stream of a project's events."""

import msgspec

from supervisor.ids import Cursor
from supervisor.ports.bus import Stream
from supervisor.rpc.methods import CursorText, Identifier, Method, Params, ProjectCall


class Subscribe(Params):
    thread_id: Identifier | None = None
    """Only events of this thread, and those of no thread."""
    after: CursorText | None = None
    """The cursor of the last event seen: what followed it comes first, then live. Without it a
    snapshot comes first."""


async def subscribe(call: ProjectCall, params: Subscribe) -> Stream:
    after = None if params.after is None else Cursor.parse(params.after)
    return await call.agent.subscribe(params.thread_id, after)


METHODS = (
    Method(
        name="subscribe",
        doc="Events from a cursor on, with no gap and no double, without end.",
        params=Subscribe,
        result=msgspec.Raw,
        stream=subscribe,
    ),
)
