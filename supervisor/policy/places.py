"""Which directories may be projects, and what a project is called."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId

_PATH_LIMIT = 4096
_NAME = re.compile(r"[^A-Za-z0-9]+")


def check_place(asked: str, roots: Sequence[Path], state_dir: Path) -> Path:
    """The directory asked for, if it may be a project; else `project_path_refused`.

    It must be absolute, real (no symlink in it), a directory, inside one of `roots` (where there
    are any), and apart from the state directory both ways: an agent that could write there would
    write its own audit log.
    """
    if "\0" in asked or len(asked) > _PATH_LIMIT:
        raise _refused("this is no path")
    path = Path(asked)
    if not path.is_absolute():
        raise _refused("the path must be absolute")
    real = Path(os.path.realpath(path))
    if real != Path(os.path.normpath(path)):
        raise _refused(f"the path leads elsewhere by a symlink: {real}", "Name the real path.")
    if not real.is_dir():
        raise _refused("there is no such directory")
    if roots and not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise _refused("the path is outside the allowed roots", "See `project_roots`.")
    state = Path(os.path.realpath(state_dir))
    if real.is_relative_to(state) or state.is_relative_to(real):
        raise _refused(
            f"the supervisor's state ({state}) must be apart from projects",
            "Set another state_dir, or open another directory.",
        )
    return real


def _refused(message: str, hint: str | None = None) -> SupervisorError:
    return SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, message, hint=hint)


def project_id(path: Path) -> ProjectId:
    """A name people recognise, made unique by the path's hash: the same path, the same project."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:10]
    name = _NAME.sub("-", path.name).strip("-").lower()[:32] or "root"
    return ProjectId(f"{name}-{digest}")
