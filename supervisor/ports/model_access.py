"""How a container without a network reaches the model, and nothing else (D4)."""

from typing import Protocol

import msgspec

from supervisor.ids import Generation, ProjectId
from supervisor.policy.reach import CONNECT_PORT, MODEL_PORT

__all__ = ["CONNECT_PORT", "MODEL_PORT", "ModelAccess", "Reached"]


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """One generation's container, as the proxy is told of it."""

    project: ProjectId
    generation: Generation
    marker: str
    pid: int
    """Of the container's init, as the host counts."""
    start_ticks: int = 0
    """When that process started, as `Identity` has it; 0: the caller knows that it is the one."""


class ModelAccess(Protocol):
    """Implemented by the link to the proxy process; containers without one reach nothing."""

    async def open(self, reached: Reached) -> None:
        """Listen inside the container and let the proxy serve it. Idempotent: an adopted container
        whose listeners are served stays as it is.

        `model_unreachable`, retryable, if the proxy cannot be had or the container has ended.
        """

    async def close(self, marker: str) -> None:
        """Serve it no longer. Harmless for one that is unknown; its end closes it just as well."""
