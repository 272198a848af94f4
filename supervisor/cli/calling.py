"""How commands reach the supervisor of a state directory."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from supervisor.api.client import RpcClient
from supervisor.policy.places import project_id
from supervisor.settings import Settings

T = TypeVar("T")


def socket_path(settings: Settings) -> Path:
    """Where the supervisor of these settings listens."""
    return settings.state_dir / "api.sock"


def dial(settings: Settings) -> AbstractAsyncContextManager[RpcClient]:
    """One connection. Raises `supervisor_unreachable`."""
    from supervisor.api.dialing import connect_unix

    return connect_unix(socket_path(settings))


def connected(settings: Settings, talk: Callable[[RpcClient], Awaitable[T]]) -> T:
    """Run `talk` with a connection of its own."""

    async def talked() -> T:
        async with dial(settings) as client:
            return await talk(client)

    return asyncio.run(talked())


def called(
    settings: Settings, project: str | None, method: str, params: dict[str, object] | None = None
) -> Any:
    """The result of one call."""
    return connected(settings, lambda client: client.call(project, method, params))


def directory(given: Path | None) -> Path:
    """The real path of a directory, by default the working one: what a project is named by."""
    return (given or Path()).resolve()


def project_of(given: str | None) -> str:
    """The project a person means: an id, a directory, or nothing for the working directory."""
    if given is None:
        return project_id(directory(None))
    if "/" in given or given in (".", "..") or given.startswith("~"):
        return project_id(directory(Path(given).expanduser()))
    return given
