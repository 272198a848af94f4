"""From how a process ended, and what we know beside it, to the kind and the words of the exit."""

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.lifecycle.restart import ExitFacts, ExitKind, classify
from supervisor.ports.runtime import Exit

OVERRUN = "ended: its spool had grown past the last bound"
STDERR_SHOWN = 1000
"""Characters of stderr in an exit's detail."""
_KNOWN_KINDS = {
    ErrorCode.AGENT_START_FAILED: ExitKind.START_FAILED,
    ErrorCode.MODEL_UNREACHABLE: ExitKind.START_FAILED,
    ErrorCode.CODEX_MISSING: ExitKind.CODEX_MISSING,
    ErrorCode.CODEX_VERSION: ExitKind.CODEX_VERSION,
    # What a container cannot be made of: no restart mends it.
    ErrorCode.PROJECT_PATH_REFUSED: ExitKind.BAD_CONFIG,
    ErrorCode.STATE_DIRECTORY_UNSAFE: ExitKind.BAD_CONFIG,
    ErrorCode.SETTINGS_INVALID: ExitKind.BAD_CONFIG,
    ErrorCode.LIMITS_NOT_HELD: ExitKind.BAD_CONFIG,
    ErrorCode.DISK_FULL: ExitKind.DISK_FULL,
}


def explain(
    exit_: Exit,
    failure: SupervisorError | None,
    *,
    asked: bool,
    ready: bool,
    overrun: bool,
    stderr: str,
) -> tuple[ExitKind, str]:
    """`failure` is what went wrong on our side before the end: a start that failed, a timeout."""
    facts = ExitFacts(
        code=exit_.code,
        signal=exit_.signal,
        asked=asked,
        ready=ready,
        timed_out=failure is not None and failure.code is ErrorCode.CODEX_TIMEOUT,
        stderr_tail=stderr,
        oom=exit_.oom,
        known=None if failure is None else _known(failure),
    )
    if overrun:
        return classify(facts), OVERRUN
    if failure is not None:
        return classify(facts), failure.message
    how = f"signal {exit_.signal}" if exit_.signal else f"exit code {exit_.code}"
    if exit_.oom:
        how = f"{how}, its memory limit was reached"
    # Once it has run turns, its stderr may quote what people and models said.
    shown = stderr.strip()[-STDERR_SHOWN:]
    return classify(facts), how if ready or not shown else f"{how}: {shown}"


def _known(failure: SupervisorError) -> ExitKind | None:
    if failure.code is ErrorCode.INNER_WALL_MISSING:
        # Preferred, and not to be had: the next start does without.
        return ExitKind.START_FAILED if failure.retryable else ExitKind.BAD_CONFIG
    return _KNOWN_KINDS.get(failure.code)
