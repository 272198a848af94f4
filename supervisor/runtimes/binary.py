"""Which codex is started."""

import os
from pathlib import Path

from codex_cli_bin import bundled_codex_path

from supervisor.errors import ErrorCode, SupervisorError


def codex_binary(told: Path | None) -> Path:
    """The binary `told` (the setting `codex_bin`), else the installed wheel's. `codex_missing` if
    it is not there or cannot be run."""
    try:
        path = told or bundled_codex_path()
    except FileNotFoundError as e:
        raise SupervisorError(ErrorCode.CODEX_MISSING, str(e)) from None
    if not os.access(path, os.X_OK) or not path.is_file():
        raise SupervisorError(ErrorCode.CODEX_MISSING, f"there is no codex to run at {path}")
    return path
