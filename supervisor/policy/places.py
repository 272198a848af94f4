"""What a project is called. Pure: which directories may be one is in agents.places."""

import hashlib
import os
import re
from pathlib import Path

from supervisor.ids import ProjectId

_NAME = re.compile(r"[^A-Za-z0-9]+")


def project_id(path: Path) -> ProjectId:
    """A name people recognise, made unique by the path's hash: the same path, the same project."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:10]
    name = _NAME.sub("-", path.name).strip("-").lower()[:32] or "root"
    return ProjectId(f"{name}-{digest}")
