"""What went wrong in a store, in the supervisor's own words: no driver's error leaves this room."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc

from supervisor.errors import ErrorCode, SupervisorError

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
    }
)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn whatever is raised inside into a `SupervisorError`; `where` names the database."""
    try:
        yield
    except SupervisorError:
        raise
    except Exception as e:
        raise _translate(e, where) from e


def may_be_written(error: Exception) -> bool:
    """Whether a commit that failed with it may be found after a crash all the same.

    The record that makes a commit is the last thing written, so with no room for it (SQLITE_FULL)
    or behind a lock it is not there; frames written and not synced (SQLITE_IOERR) may be.
    """
    return _code(_driver(error)) == sqlite3.SQLITE_IOERR


def _driver(error: Exception) -> BaseException:
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig
    return error


def _code(driver: BaseException) -> int:
    """SQLite's own, without the upper bytes, which only say more about it."""
    return (getattr(driver, "sqlite_errorcode", None) or 0) & 0xFF


def _translate(error: Exception, where: str) -> SupervisorError:
    driver = _driver(error)
    said = f"{type(driver).__name__}: {driver}"
    code = _code(driver)
    if code in _CORRUPT:
        return SupervisorError(ErrorCode.STORE_CORRUPT, f"{where} is corrupt ({said})")
    if code in _UNAVAILABLE or _is_away(error):
        return SupervisorError(ErrorCode.STORE_UNAVAILABLE, f"{where} is not available ({said})")
    return SupervisorError(ErrorCode.INTERNAL, f"{where} refused a statement ({said})")


def _is_away(error: Exception) -> bool:
    """Errors without SQLite's code: the system's, a pool's, a server's."""
    if isinstance(error, exc.DBAPIError):
        server = not isinstance(error.orig, sqlite3.Error)
        gone = isinstance(error, exc.OperationalError | exc.InterfaceError)
        return error.connection_invalidated or (server and gone)
    return isinstance(error, OSError | exc.TimeoutError)
