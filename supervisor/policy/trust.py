"""The trust chain: what keeps a directory's own Codex config from running (DESIGN.md D6).

Measured on codex 0.163.0: `-c projects={"DIR"=…}` at the launch covers DIR, and subdirectories only
where DIR is their git root. A thread in a subdirectory needs, in its own `config.projects`, every
directory from the project down to its cwd: that table *replaces* the one of the launch. With an
entry for each, Codex neither loads what lies there nor writes to the person's config.toml.
"""

from pathlib import Path

import msgspec


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
