"""Paths in params: inside the project, by their text alone. Pure.

Symlinks are not looked at here: Codex's sandbox stands against those, and a check now would say
nothing of the moment the path is used.
"""

from pathlib import PurePosixPath

from supervisor.errors import ErrorCode, SupervisorError


def inside(name: str, project: str, path: str) -> str:
    """`path`, absolute or relative to `project`, as an absolute path below `project`.

    Raises `project_path_refused`: outside, with a `..`, or with a NUL in it.
    """
    pure = PurePosixPath(path)
    if "\0" in path or ".." in pure.parts:
        raise SupervisorError(
            ErrorCode.PROJECT_PATH_REFUSED, f"params.{name}: no `..` and no NUL in a path"
        )
    whole = PurePosixPath(project) / pure
    if not is_inside(project, str(whole)):
        raise SupervisorError(
            ErrorCode.PROJECT_PATH_REFUSED,
            f"params.{name} is not inside the project",
            hint="Name a path relative to the project, or an absolute one below it.",
        )
    return str(whole)


def is_inside(project: str, path: str) -> bool:
    """Whether absolute `path` is `project` or below it."""
    pure = PurePosixPath(path)
    return ".." not in pure.parts and pure.is_relative_to(PurePosixPath(project))
