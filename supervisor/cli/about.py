"""`version` and `schema`: what this program is, and what may be asked of it."""

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.errors import ErrorCode, SupervisorError

ANSWER_SECONDS = 20.0
"""How long `codex --version` may take: a first start on a cold disk is slow."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("version")(with_options(version))
    app.command("schema")(with_options(schema))


def version(inv: Invocation) -> None:
    """This program's version, the codex it is made for, and the codex it would start."""
    from supervisor.runtimes.binary import codex_binary

    settings = inv.settings()
    found: dict[str, str | None] = {
        "codex-supervisor": metadata.version("codex-supervisor"),
        "codex wanted": settings.codex_version,
    }
    try:
        binary = codex_binary(settings.codex_bin)
        found |= {"codex found": binary_version(binary), "codex binary": str(binary)}
    except SupervisorError as error:
        found["codex found"] = None
        output.note(f"{error.message}; {error.hint}")
    if inv.json:
        output.document(found)
    else:
        output.facts(found.items())


def schema(
    inv: Invocation,  # noqa: ARG001  # JSON whatever --output says
    method: Annotated[
        str | None, typer.Argument(help="One method; all if left out.", show_default=False)
    ] = None,
) -> None:
    """The RPC's methods as JSON Schema."""
    from supervisor.rpc.describe import json_schema

    every = json_schema()
    if method is None:
        output.document(every)
        return
    one = every["methods"].get(method)
    if one is None:
        raise SupervisorError(ErrorCode.METHOD_UNKNOWN, f"no method {method}")
    output.document({"$schema": every["$schema"], **one})


def binary_version(path: Path) -> str:
    """What the binary says of itself. `codex_missing` where it cannot be run or says nothing."""
    from supervisor.settings import environment

    try:
        ran = subprocess.run(
            [path, "--version"],
            capture_output=True,
            timeout=ANSWER_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SupervisorError(
            ErrorCode.CODEX_MISSING, f"{path} --version does not answer: {error}"
        ) from None
    words = ran.stdout.decode(errors="replace").split()
    if ran.returncode != 0 or not words:
        raise SupervisorError(
            ErrorCode.CODEX_MISSING, f"{path} --version ended with status {ran.returncode}"
        )
    return words[-1][:64]
