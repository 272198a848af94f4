"""Directories as they are on disk: which may be projects, and where in one a thread may work."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy import trust
from supervisor.policy.places import ProjectPaths

_PATH_LIMIT = 4096
CONFIG_KEYS = frozenset({"model_reasoning_effort"})
"""What a thread's `config` may hold beside the trust chain: thread/start has no field for it."""


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
    if not _is_directory(real):
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


def check_containable(place: Path, others: Iterable[Path]) -> None:
    """`project_path_refused` for a name that cannot be mounted, and for a directory in another
    project or around one: the agent of the outer could put anything in place of the inner one."""
    if not str(place).isprintable():
        raise _refused("the path has characters that cannot be shown")
    for other in others:
        if place.is_relative_to(other) or other.is_relative_to(place):
            raise _refused(
                f"the path is in another project, or holds one ({other})",
                "Contained projects must be apart from each other.",
            )


def _is_directory(path: Path) -> bool:
    """False, too, for a name no file system takes and for what may not be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _refused(message: str, hint: str | None = None) -> SupervisorError:
    return SupervisorError(ErrorCode.PROJECT_PATH_REFUSED, message, hint=hint)


def thread_params(
    params: dict[str, object], paths: ProjectPaths, trusted: bool
) -> dict[str, object]:
    """The params of thread/start, resume and fork with the chain in place of any `config`.

    `cwd` is resolved, stays in the project, and goes upstream as the app-server knows it; it may
    be given either way. `bad_request` for one that does not, or whose
    real path leaves it, and for a `config` with more than `CONFIG_KEYS`: it could undo the chain.
    """
    config = params.get("config") or {}
    if not isinstance(config, dict) or not config.keys() <= CONFIG_KEYS:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "`config` is the supervisor's to set")
    asked = params.get("cwd")
    place = paths.host if asked is None else _inside(paths, str(asked))
    cwd = paths.to_inside(place)
    chain = trust.trust_chain(paths.inside, cwd, trusted)
    return {**params, "cwd": str(cwd), "config": {**config, "projects": chain}}


def _inside(paths: ProjectPaths, asked: str) -> Path:
    if "\0" in asked:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd is not a path")
    try:
        cwd = paths.to_host(paths.host / asked).resolve()
    except (OSError, RuntimeError):  # a symlink that leads to itself
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd is not a directory") from None
    if not cwd.is_relative_to(paths.host):
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd leaves the project")
    if not _is_directory(cwd):
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd is not a directory")
    return cwd
