"""Codex's refusals in our codes, where its words say which one it is. Pure.

The words are those of 0.163.0, all with code -32600: `invalid thread id: ...`, `thread not loaded:
ID`, `thread not found: ID`, `no rollout found for thread id ID`, `no active turn to interrupt`,
`expected active turn id ...`. Anything else stays `codex_refused`.
"""

import re

from supervisor.errors import ErrorCode, SupervisorError

_KNOWN = (
    (
        re.compile(r"invalid thread id|thread not (loaded|found)|no rollout found"),
        ErrorCode.THREAD_UNKNOWN,
        "`listThreads` shows the threads there are; `resumeThread` loads one.",
    ),
    (re.compile(r"no active turn|expected active turn id"), ErrorCode.TURN_UNKNOWN, None),
)


def translated(error: SupervisorError) -> SupervisorError:
    """The error to show instead of `error`, which may be `error` itself."""
    if error.code is ErrorCode.CODEX_REFUSED:
        for words, code, hint in _KNOWN:
            if words.search(error.message):
                return SupervisorError(code, error.message, hint=hint, details=error.details)
    return error
