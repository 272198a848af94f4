"""`proxy`: the process that keeps the credential, and lets containers reach the model."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supervisor.cli.invocation import Invocation, with_options

if TYPE_CHECKING:
    from supervisor.settings_groups import ProxySettings

Socket = Annotated[
    Path | None, typer.Option("--socket", help="Where supervisors find it (proxy.socket).")
]
OnDemand = Annotated[bool, typer.Option("--on-demand", help="End when nobody needs it any more.")]
Idle = Annotated[
    float, typer.Option("--idle-seconds", min=0.1, help="How long nobody must have needed it.")
]
Given = Annotated[
    Path | None, typer.Option("--settings", hidden=True, help="The [proxy] settings, as JSON.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("proxy")(proxy)


@with_options
def proxy(
    invocation: Invocation,
    *,
    socket: Socket = None,
    on_demand: OnDemand = False,
    idle_seconds: Idle = 10.0,
    settings: Given = None,
) -> None:
    """Let containers reach the model API, and add the credential to what they ask of it.

    Supervisors start one by themselves where proxy.socket is not set. SIGTERM ends it.
    """
    import uvloop

    from supervisor import logs

    if settings is None:
        merged = invocation.settings()
        logs.configure(merged.log_level, merged.log_format)
        told, path = merged.proxy, merged.proxy.socket or merged.state_dir / "proxy" / "proxy.sock"
    else:
        logs.configure()
        told, path = _read(settings), settings.with_name("proxy.sock")
    path = (socket or path).absolute()
    if on_demand:
        # The directory it was started in is not to be kept from being unmounted.
        os.chdir("/")
    uvloop.run(_serve(told, path, idle_seconds if on_demand else None))


async def _serve(settings: "ProxySettings", path: Path, idle_seconds: float | None) -> None:
    from supervisor.clock import SystemClock
    from supervisor.credentials.proxy import Proxy, set_limits
    from supervisor.settings import environment

    set_limits()
    proxy = Proxy(settings, path, environment(), SystemClock(), idle_seconds=idle_seconds)
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    await proxy.run(told)


def _read(file: Path) -> "ProxySettings":
    from pydantic import ValidationError

    from supervisor.errors import ErrorCode, SupervisorError
    from supervisor.settings_groups import ProxySettings

    try:
        return ProxySettings.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise SupervisorError(ErrorCode.SETTINGS_INVALID, f"{file}: {error}") from None
