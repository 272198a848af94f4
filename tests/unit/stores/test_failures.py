"""Which of the supervisor's errors a driver's error becomes."""

import sqlite3

import pytest
from sqlalchemy import exc

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.stores.failures import translated


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite words it")
    error.sqlite_errorcode = code
    return error


def wrapped(error: Exception) -> exc.DBAPIError:
    return exc.OperationalError("SELECT 1", {}, error)


CASES = [
    (of_sqlite(sqlite3.SQLITE_BUSY), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_LOCKED), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_FULL), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_IOERR_FSYNC), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_CANTOPEN), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_READONLY), ErrorCode.STORE_UNAVAILABLE),
    (of_sqlite(sqlite3.SQLITE_CORRUPT), ErrorCode.STORE_CORRUPT),
    (of_sqlite(sqlite3.SQLITE_CORRUPT_INDEX), ErrorCode.STORE_CORRUPT),
    (of_sqlite(sqlite3.SQLITE_NOTADB), ErrorCode.STORE_CORRUPT),
    (of_sqlite(sqlite3.SQLITE_ERROR), ErrorCode.INTERNAL),
    (of_sqlite(sqlite3.SQLITE_CONSTRAINT_NOTNULL), ErrorCode.INTERNAL),
    (PermissionError(13, "Permission denied"), ErrorCode.STORE_UNAVAILABLE),
    (exc.TimeoutError("no connection in the pool"), ErrorCode.STORE_UNAVAILABLE),
    (exc.OperationalError("SELECT 1", {}, Exception("gone")), ErrorCode.STORE_UNAVAILABLE),
    (exc.IntegrityError("INSERT", {}, Exception("null")), ErrorCode.INTERNAL),
    (OverflowError("Python int too large"), ErrorCode.INTERNAL),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=lambda v: str(v)[:40])
def test_a_driver_error_becomes_one_of_ours(error: Exception, code: ErrorCode) -> None:
    raised = [error, wrapped(error)] if isinstance(error, sqlite3.Error) else [error]
    for one in raised:
        with pytest.raises(SupervisorError) as caught, translated("the database /x"):
            raise one
        assert caught.value.code is code
        assert "/x" in caught.value.message
        assert caught.value.__cause__ is one


def test_statements_and_values_do_not_leak_into_the_message() -> None:
    error = exc.OperationalError("SELECT secret", {"v": "hunter2"}, of_sqlite(sqlite3.SQLITE_BUSY))
    with pytest.raises(SupervisorError) as caught, translated("the database"):
        raise error
    assert "secret" not in caught.value.message
    assert "hunter2" not in caught.value.message


def test_an_error_of_ours_passes_unchanged() -> None:
    error = SupervisorError(ErrorCode.STORE_TOO_NEW, "as it was")
    with pytest.raises(SupervisorError) as caught, translated("the database"):
        raise error
    assert caught.value is error
