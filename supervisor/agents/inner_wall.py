"""The probe of Codex's own sandbox: does a command that may only read, only read?

One request of the supervisor's own, 35 ms. `command/exec` makes no event and no item, and its
answer is nobody else's, so neither clients nor the audit log see anything of it.
"""

from pathlib import Path
from typing import Final, Protocol

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.inner_wall import InnerWall, WallState

METHOD: Final = "command/exec"
_REFUSED: Final = "refused"
_WROTE: Final = "wrote"
# Tried for real in /tmp, which ends with the container; in the project the kernel is only asked.
_SCRIPT: Final = (
    f"if mkdir /tmp/.inner-wall-$$ 2>/dev/null; then rmdir /tmp/.inner-wall-$$; echo {_WROTE}; "
    f"elif test -w .; then echo {_WROTE}; else echo {_REFUSED}; fi"
)
_REASON_CHARACTERS: Final = 300


class Upstream(Protocol):
    """The part of `agents.upstream.Upstream` that is needed."""

    async def ask(
        self, method: str, params: object, *, timeout: float, own: bool = False
    ) -> msgspec.Raw:
        """Codex's result, within seconds."""


class _Result(msgspec.Struct):
    exitCode: int  # noqa: N815  the wire's own name
    stdout: str = ""
    stderr: str = ""


async def probe(upstream: Upstream, directory: Path, *, timeout: float) -> InnerWall:
    """Ask Codex to run a command that writes, in a sandbox that forbids it. Seconds.

    `directory` is the project's, as the app-server knows it, and writable without the sandbox.
    `agent_restarted` if the app-server ends meanwhile; whatever else goes wrong is in the result.
    """
    params = {
        "command": ["sh", "-c", _SCRIPT],
        "cwd": str(directory),
        "sandboxPolicy": {"type": "readOnly"},
        "timeoutMs": max(1, int(timeout * 900)),
    }
    try:
        answer = await upstream.ask(METHOD, params, timeout=timeout, own=True)
    except SupervisorError as error:
        if error.code is ErrorCode.AGENT_RESTARTED:
            raise
        return _found(WallState.UNKNOWN, error.message)
    return understood(answer)


def understood(answer: bytes) -> InnerWall:
    """What Codex's answer to the probe says."""
    try:
        result = msgspec.json.decode(answer, type=_Result)
    except msgspec.MsgspecError as error:
        return _found(WallState.UNKNOWN, f"codex answered something else: {error}")
    said = result.stdout.strip()
    if said == _REFUSED and result.exitCode == 0:
        return InnerWall(state=WallState.HOLDS)
    if said == _WROTE:
        return _found(WallState.MISSING, "a command that may only read could write")
    complaint = result.stderr.strip() or said or f"exit code {result.exitCode}"
    # A bwrap that complains of execvp has done its work, and found no shell in the image.
    broken = "bwrap" in complaint and "execvp" not in complaint
    return _found(WallState.MISSING if broken else WallState.UNKNOWN, complaint)


def _found(state: WallState, reason: str) -> InnerWall:
    shown = " ".join(reason.split())[:_REASON_CHARACTERS]
    return InnerWall(state=state, reason="".join(c if c.isprintable() else "?" for c in shown))
