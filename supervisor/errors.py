"""Every error the supervisor shows to anyone: a code, a message, a hint and whether to retry.

Adapters translate what their libraries raise into `SupervisorError`; nobody logs *and* raises.
"""

from dataclasses import dataclass
from enum import StrEnum, unique
from os import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_DATAERR,
    EX_NOPERM,
    EX_SOFTWARE,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
)


@unique
class ErrorCode(StrEnum):
    """The codes clients may match on. Documented in docs/errors.md; a test compares the two."""

    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    METHOD_UNKNOWN = "method_unknown"
    PROJECT_UNKNOWN = "project_unknown"
    PROJECT_PATH_REFUSED = "project_path_refused"
    THREAD_UNKNOWN = "thread_unknown"
    THREAD_LOST = "thread_lost"
    TURN_UNKNOWN = "turn_unknown"
    TURN_ACTIVE = "turn_active"
    APPROVAL_UNKNOWN = "approval_unknown"
    APPROVAL_SETTLED = "approval_settled"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    CURSOR_EXPIRED = "cursor_expired"
    AGENT_NOT_READY = "agent_not_ready"
    AGENT_QUARANTINED = "agent_quarantined"
    AGENT_RESTARTED = "agent_restarted"
    AGENT_DRAINING = "agent_draining"
    AGENT_START_FAILED = "agent_start_failed"
    LIMITS_NOT_HELD = "limits_not_held"
    INNER_WALL_MISSING = "inner_wall_missing"
    MODEL_UNREACHABLE = "model_unreachable"
    DISK_FULL = "disk_full"
    CODEX_MISSING = "codex_missing"
    CODEX_VERSION = "codex_version"
    CODEX_REFUSED = "codex_refused"
    CODEX_TIMEOUT = "codex_timeout"
    OVERLOADED = "overloaded"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_CORRUPT = "store_corrupt"
    STORE_TOO_NEW = "store_too_new"
    STATE_DIRECTORY_BUSY = "state_directory_busy"
    STATE_DIRECTORY_UNSAFE = "state_directory_unsafe"
    ADDRESS_IN_USE = "address_in_use"
    SETTINGS_INVALID = "settings_invalid"
    SUPERVISOR_UNREACHABLE = "supervisor_unreachable"
    CONNECTION_LOST = "connection_lost"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What is true of every error of one code: whether to retry, and the CLI's exit status."""

    retryable: bool
    exit_status: int
    hint: str


_K = ErrorKind
ERROR_KINDS: dict[ErrorCode, ErrorKind] = {
    ErrorCode.BAD_REQUEST: _K(False, EX_DATAERR, "Compare the request with the method's schema."),
    ErrorCode.TOO_LARGE: _K(False, EX_DATAERR, "Send less at once, or raise the limit."),
    ErrorCode.UNAUTHENTICATED: _K(False, EX_NOPERM, "Send the token of this supervisor."),
    ErrorCode.FORBIDDEN: _K(False, EX_NOPERM, "Ask the project's owner for the right to do this."),
    ErrorCode.METHOD_UNKNOWN: _K(False, EX_USAGE, "`codex-supervisor schema` lists the methods."),
    ErrorCode.PROJECT_UNKNOWN: _K(False, EX_USAGE, "Open the project first (`openProject`)."),
    ErrorCode.PROJECT_PATH_REFUSED: _K(False, EX_USAGE, "Name a real directory you own."),
    ErrorCode.THREAD_UNKNOWN: _K(False, EX_USAGE, "`listThreads` shows the threads there are."),
    ErrorCode.THREAD_LOST: _K(False, EX_UNAVAILABLE, "Start a new thread."),
    ErrorCode.TURN_UNKNOWN: _K(False, EX_USAGE, "The turn has ended, or never was."),
    ErrorCode.TURN_ACTIVE: _K(
        True, EX_TEMPFAIL, "Wait for the turn to end, steer or interrupt it."
    ),
    ErrorCode.APPROVAL_UNKNOWN: _K(False, EX_USAGE, "`listApprovals` shows what is waiting."),
    ErrorCode.APPROVAL_SETTLED: _K(
        False, EX_DATAERR, "Somebody answered first, or the turn ended."
    ),
    ErrorCode.IDEMPOTENCY_MISMATCH: _K(
        False, EX_DATAERR, "Use a new idempotency key for a new request."
    ),
    ErrorCode.CURSOR_EXPIRED: _K(False, EX_DATAERR, "Start again from the snapshot."),
    ErrorCode.AGENT_NOT_READY: _K(True, EX_TEMPFAIL, "The agent is starting: try again soon."),
    ErrorCode.AGENT_QUARANTINED: _K(
        False, EX_UNAVAILABLE, "Mend the reason shown, then restart the project."
    ),
    ErrorCode.AGENT_RESTARTED: _K(True, EX_TEMPFAIL, "The agent restarted meanwhile: look, retry."),
    ErrorCode.AGENT_DRAINING: _K(True, EX_TEMPFAIL, "The project is stopping: try again after."),
    ErrorCode.AGENT_START_FAILED: _K(True, EX_UNAVAILABLE, "`codex-supervisor logs` shows why."),
    ErrorCode.LIMITS_NOT_HELD: _K(
        False, EX_CONFIG, "Grant podman the limits (doctor says which), or unset require_limits."
    ),
    ErrorCode.INNER_WALL_MISSING: _K(
        False, EX_CONFIG, "Allow user namespaces to containers, or set inner_wall to prefer."
    ),
    ErrorCode.DISK_FULL: _K(False, EX_UNAVAILABLE, "Free space in the project, then restart it."),
    ErrorCode.MODEL_UNREACHABLE: _K(
        True, EX_UNAVAILABLE, "See whether the proxy runs: `codex-supervisor doctor`."
    ),
    ErrorCode.CODEX_MISSING: _K(
        False, EX_CONFIG, "Install openai-codex-cli-bin, or set codex_bin."
    ),
    ErrorCode.CODEX_VERSION: _K(False, EX_CONFIG, "Install the pinned codex version."),
    ErrorCode.CODEX_REFUSED: _K(False, EX_DATAERR, "Codex's own words are in the message."),
    ErrorCode.CODEX_TIMEOUT: _K(True, EX_TEMPFAIL, "The app-server did not answer in time."),
    ErrorCode.OVERLOADED: _K(True, EX_TEMPFAIL, "Too many requests at once: wait a moment."),
    ErrorCode.STORE_UNAVAILABLE: _K(True, EX_TEMPFAIL, "The database is locked or away: retry."),
    ErrorCode.STORE_CORRUPT: _K(False, EX_SOFTWARE, "Restore the database, or move it away."),
    ErrorCode.STORE_TOO_NEW: _K(False, EX_CONFIG, "Upgrade the supervisor, or restore a backup."),
    ErrorCode.STATE_DIRECTORY_BUSY: _K(
        False, EX_UNAVAILABLE, "Use the supervisor that runs, stop it, or set another state_dir."
    ),
    ErrorCode.STATE_DIRECTORY_UNSAFE: _K(False, EX_NOPERM, "Make it yours alone (mode 0700)."),
    ErrorCode.ADDRESS_IN_USE: _K(False, EX_CANTCREAT, "Stop what listens there, or use port 0."),
    ErrorCode.SETTINGS_INVALID: _K(False, EX_CONFIG, "See configs/ for every setting."),
    ErrorCode.SUPERVISOR_UNREACHABLE: _K(True, EX_UNAVAILABLE, "Start one: `codex-supervisor up`."),
    ErrorCode.CONNECTION_LOST: _K(
        True, EX_TEMPFAIL, "Connect again and subscribe after the cursor."
    ),
    ErrorCode.INTERNAL: _K(False, EX_SOFTWARE, "Please report this, with the log line."),
}


class SupervisorError(Exception):
    """An error for the one who caused it: `code`, `message`, `hint`, `retryable`.

    `hint` and `retryable` default to what `ERROR_KINDS` says of the code. `details` is JSON-able.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        kind = ERROR_KINDS[code]
        self.code = code
        self.message = message
        self.hint = kind.hint if hint is None else hint
        self.retryable = kind.retryable if retryable is None else retryable
        self.details = details or {}

    @property
    def exit_status(self) -> int:
        """The sysexits(3) status the command line ends with."""
        return ERROR_KINDS[self.code].exit_status

    def as_dict(self) -> dict[str, object]:
        """The error as clients see it, in a frame's `error` header."""
        shown: dict[str, object] = {
            "code": self.code.value,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }
        if self.details:
            shown["details"] = self.details
        return shown
