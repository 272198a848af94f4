"""What a line asks of the agent beside its rows: effects, decided purely, carried out elsewhere."""

import msgspec

from supervisor.ports.store import TurnRow
from supervisor.protocol.jsonrpc import Parsed


class Answer(msgspec.Struct, frozen=True):
    """An effect: the app-server answered a request of ours; `line` is its response."""

    request_id: str
    parsed: Parsed
    line: bytes


class Asked(msgspec.Struct, frozen=True):
    """An effect: a server request came. `waiting` ones are somebody's to answer, all others are
    answered by the supervisor at once."""

    id_raw: bytes
    method: str
    policy: str
    waiting: bool
    refusal: str
    """`unsupported`, `unknown` to the pinned schema, or `overloaded`: too much waits already."""


class TurnEnded(msgspec.Struct, frozen=True):
    """An effect: a turn reached its end."""

    turn: TurnRow


class Unknown(msgspec.Struct, frozen=True):
    """An effect: a notification the pinned schema does not know. It passes, and is counted."""

    method: str


class Excess(msgspec.Struct, frozen=True):
    """An effect: a claim past the bounds of `agents.claims`. The line is shown, not remembered."""

    kind: str
    """`thread`, `turn` or `item`."""


Effect = Answer | Asked | TurnEnded | Unknown | Excess
