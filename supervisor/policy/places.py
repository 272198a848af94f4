"""What a project is called, and where it is. Pure: which directories may be one is in
agents.places."""

import hashlib
import os
import re
from pathlib import Path

import msgspec

from supervisor.ids import ProjectId

_NAME = re.compile(r"[^A-Za-z0-9]+")


def project_id(path: Path) -> ProjectId:
    """A name people recognise, made unique by the path's hash: the same path, the same project."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:10]
    name = _NAME.sub("-", path.name).strip("-").lower()[:32] or "root"
    return ProjectId(f"{name}-{digest}")


class ProjectPaths(msgspec.Struct, frozen=True):
    """A project's directory as the host has it, and as its app-server does: most often the same.

    The one place where paths are mapped (D6).
    """

    host: Path
    inside: Path

    def to_inside(self, path: Path) -> Path:
        """`path` of the host, as the app-server knows it; one outside the project as it is."""
        return _moved(path, self.host, self.inside)

    def to_host(self, path: Path) -> Path:
        """`path` as the app-server knows it, or as the host does, as the host's."""
        return path if path.is_relative_to(self.host) else _moved(path, self.inside, self.host)


def _moved(path: Path, source: Path, target: Path) -> Path:
    return target / path.relative_to(source) if path.is_relative_to(source) else path
