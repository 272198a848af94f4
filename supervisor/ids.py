"""The identifiers, as types, and the cursor."""

import re
from dataclasses import dataclass
from typing import NewType

from supervisor.errors import ErrorCode, SupervisorError

ProjectId = NewType("ProjectId", str)
AccountId = NewType("AccountId", str)
ThreadId = NewType("ThreadId", str)
TurnId = NewType("TurnId", str)
ItemId = NewType("ItemId", str)
ApprovalId = NewType("ApprovalId", str)
RequestId = NewType("RequestId", str)
"""An upstream request id of ours, `<run>-<n>`: says which supervisor process asked."""
Epoch = NewType("Epoch", str)
Generation = NewType("Generation", int)

_CURSOR = re.compile(r"([a-z0-9]{1,32})\.([0-9]{1,18})")


@dataclass(frozen=True, slots=True, order=False)
class Cursor:
    """`<epoch>.<n>`: event number `n` of the project, opaque to clients."""

    epoch: Epoch
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.n}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises `bad_request` for anything that was never a cursor of any supervisor."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise SupervisorError(ErrorCode.BAD_REQUEST, "this is not a cursor")
        return cls(Epoch(match[1]), int(match[2]))
