"""The trust chain: what keeps a directory's own Codex config from running (DESIGN.md D6).

Measured on codex 0.163.0: `-c projects={"DIR"=…}` at the launch covers DIR, and subdirectories only
where DIR is their git root. A thread in a subdirectory needs, in its own `config.projects`, every
directory from the project down to its cwd: that table *replaces* the one of the launch. With an
entry for each, Codex neither loads what lies there nor writes to the person's config.toml.
"""

from pathlib import Path

import msgspec

from supervisor.errors import ErrorCode, SupervisorError

CONFIG_KEYS = frozenset({"model_reasoning_effort"})
"""What a thread's `config` may hold beside the chain: thread/start has no field of its own for it."""


def trust_level(trusted: bool) -> str:
    """Codex's word for it."""
    return "trusted" if trusted else "untrusted"


def launch_override(project: Path, trusted: bool) -> str:
    """The `-c` override of the launch: TOML, whose basic strings are JSON's."""
    name = msgspec.json.encode(str(project)).decode().replace("\x7f", "\\u007f")
    return f'projects={{{name}={{trust_level="{trust_level(trusted)}"}}}}'


def trust_chain(project: Path, cwd: Path, trusted: bool) -> dict[str, object]:
    """The `projects` table of a thread: every directory from the project down to `cwd`."""
    level = {"trust_level": trust_level(trusted)}
    steps = [project]
    for part in cwd.relative_to(project).parts:
        steps.append(steps[-1] / part)
    return {str(step): level for step in steps}


def thread_params(params: dict[str, object], project: Path, trusted: bool) -> dict[str, object]:
    """The params of thread/start, resume and fork with the chain in place of any `config`.

    `cwd` is resolved, and stays in the project. `bad_request` for one that does not, or whose
    real path leaves it, and for a `config` with more than `CONFIG_KEYS`: it could undo the chain.
    """
    config = params.get("config") or {}
    if not isinstance(config, dict) or not config.keys() <= CONFIG_KEYS:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "`config` is the supervisor's to set")
    asked = params.get("cwd")
    cwd = project if asked is None else _inside(project, str(asked))
    chain = trust_chain(project, cwd, trusted)
    return {**params, "cwd": str(cwd), "config": {**config, "projects": chain}}


def _inside(project: Path, asked: str) -> Path:
    if "\0" in asked:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd is not a path")
    cwd = (project / asked).resolve()
    if not cwd.is_relative_to(project):
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd leaves the project")
    if not cwd.is_dir():
        raise SupervisorError(ErrorCode.BAD_REQUEST, "cwd is not a directory")
    return cwd
