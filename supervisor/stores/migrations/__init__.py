"""The schema's history, for Alembic: `versions/` holds one hand-written module a revision.

`REVISIONS` names them all, oldest first, so that a database at the newest one is opened without
Alembic (its import alone takes longer than opening), and one from the future is left alone. A test
compares it with the modules.
"""

from typing import Final

REVISIONS: Final = ("0001",)
HEAD: Final = REVISIONS[-1]
