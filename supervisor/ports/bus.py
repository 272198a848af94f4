"""What travels on a bus, and what a bus carries requests to (DESIGN.md D7).

A bus (the embedded sockets, NATS) moves frames: it knows who the peer is, finds the reply inbox and
numbers the replies. A `Service` knows what a request means. Neither knows the other's business.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from supervisor.policy.access import Principal

API = "api"
"""The service of the methods."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A subject taken apart: one project, or with `project` None the host."""

    project: str | None
    account: str
    service: str = API


class FrameHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may say beside the payload. Unknown headers are left alone."""

    cancel: bool = False
    """End the stream of this reply inbox."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a client: `subject`, `headers`, `payload`, `reply`."""

    subject: str
    headers: FrameHeaders = FrameHeaders()
    payload: msgspec.Raw = msgspec.Raw(b"null")
    reply: str | None = None
    """The inbox the answers go to."""


class Stream(Protocol):
    """A stream of JSON payloads, each `bytes`."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The payloads, in order."""

    def close(self) -> None:
        """Let go of it. Idempotent."""


class Exchange(Protocol):
    """One request that was understood and permitted, and is not carried out yet."""

    @property
    def streaming(self) -> bool:
        """Whether `stream` is to be called, or `result`."""

    @property
    def acts(self) -> bool:
        """It changes something: it is carried out even if the peer has gone meanwhile."""

    async def result(self) -> bytes:
        """Carry it out: the result, JSON. Raises `SupervisorError` only."""

    async def stream(self) -> Stream:
        """Open its stream. Raises `SupervisorError` only."""


class Service(Protocol):
    """What answers on the subjects."""

    def accept(self, principal: Principal, subject: Subject, payload: msgspec.Raw) -> Exchange:
        """Understand and permit a request, without waiting for anything.

        `payload` is UTF-8 and otherwise as the peer sent it.

        Raises `SupervisorError`: `bad_request`, `forbidden`, `project_unknown`, `method_unknown`.
        """
