"""A commit that fails in its last step: certain not to be made, or in doubt."""

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, exc, text

from supervisor.ports.store import CommitInDoubtError
from supervisor.stores.sqlite import _written

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


class Failing(sqlite3.Connection):
    """Its next commit fails with `code`, before or after it was made."""

    code: int | None = None
    made = False

    def commit(self) -> None:
        code, Failing.code = Failing.code, None
        if code is None or Failing.made:
            super().commit()
        if code is not None:
            error = sqlite3.OperationalError("as SQLite words it")
            error.sqlite_errorcode = code
            raise error


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/t.db", connect_args={"factory": Failing})
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    yield made
    Failing.code, Failing.made = None, False
    made.dispose()


def insert(x: int, engine: Engine) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})

    _written(engine, work)


def rows(engine: Engine) -> list[int]:
    with engine.begin() as connection:
        return [x for (x,) in connection.execute(text("SELECT x FROM t ORDER BY x"))]


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE]
)
@pytest.mark.parametrize("made", [True, False])
def test_an_input_output_error_leaves_a_commit_in_doubt(
    code: int, made: bool, engine: Engine
) -> None:
    Failing.code, Failing.made = code, made
    with pytest.raises(CommitInDoubtError) as raised:
        insert(1, engine)
    assert raised.value.retryable
    assert rows(engine) == ([1] if made else [])
    insert(2, engine)
    assert rows(engine) == ([1, 2] if made else [2]), "the failed one is not gone on with"


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL])
def test_a_lock_or_a_full_disk_leaves_no_doubt(code: int, engine: Engine) -> None:
    Failing.code = code
    with pytest.raises(exc.OperationalError) as raised:
        insert(1, engine)
    assert not isinstance(raised.value, CommitInDoubtError)
    insert(2, engine)
    assert rows(engine) == [2]


def test_a_statement_that_fails_leaves_no_doubt_whatever_the_error(engine: Engine) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        raise error

    with pytest.raises(sqlite3.OperationalError, match="disk"):
        _written(engine, work)
    insert(2, engine)
    assert rows(engine) == [2]


NO_ROOM = """
import asyncio, resource, sys
from supervisor.clock import SystemClock
from supervisor.errors import SupervisorError
from supervisor.ports.store import Batch, CommitInDoubtError
from supervisor.stores.sql import SqlStore
from tests.contract.stored import A, checkpoint, event

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    store = SqlStore("sqlite:///" + sys.argv[1], clock=SystemClock())
    await store.open()
    batch = Batch(
        project=A, checkpoint=checkpoint(next_n=2, window_n=0),
        events=[event(1, message=b"x" * 1_000_000)],
    )
    limit(300_000)
    try:
        await store.commit(batch)
    except SupervisorError as e:
        print(type(e).__name__, e.code.value)
    limit(resource.RLIM_INFINITY)
    await store.commit(batch)
    state = await store.project_state(A)
    print(state.checkpoint.next_n, len(state.events))
    await store.close()

asyncio.run(main())
"""


async def test_the_log_that_cannot_be_written_to_its_end_is_a_doubt_that_a_second_try_ends(
    tmp_path: Path,
) -> None:
    """A file size limit cuts the write-ahead log in the middle of the commit."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        NO_ROOM,
        str(tmp_path / "store.db"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.decode().splitlines() == ["CommitInDoubtError store_unavailable", "2 1"]
