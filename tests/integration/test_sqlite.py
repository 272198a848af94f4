"""What only a file on a disk can do to the store: be locked, full, damaged, of another version."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import Batch
from supervisor.stores.sql import SqlStore
from tests.contract.stored import A, audit, checkpoint, event, item, project_row, thread

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def opened_at(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}", clock=SystemClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    made = opened_at(path)
    await made.open()
    yield made
    await made.close()


async def filled(path: Path) -> None:
    """A closed database with some hundred rows in it."""
    made = opened_at(path)
    await made.open()
    rows = [item(f"i{n}", started_n=n, body=b"x" * 500) for n in range(400)]
    await made.put_project(project_row())
    await made.commit(
        Batch(
            project=A,
            checkpoint=checkpoint(),
            items={(row.thread_id, row.turn_id, row.item_id): row for row in rows},
        )
    )
    await made.close()


async def refusal(path: Path) -> SupervisorError:
    """What opening the file raises."""
    made = opened_at(path)
    with pytest.raises(SupervisorError) as raised:
        await made.open()
    await made.close()
    return raised.value


async def test_everything_is_there_after_reopening(path: Path) -> None:
    await filled(path)
    again = opened_at(path)
    await again.open()
    await again.open()

    assert await again.projects() == [project_row()]
    assert (await again.project_state(A)).checkpoint == checkpoint()
    await again.close()
    assert not Path(f"{path}-wal").exists()


async def test_locked_database_is_unavailable_and_works_again_after(
    store: SqlStore, path: Path
) -> None:
    await store.commit(Batch(project=A, checkpoint=checkpoint(next_n=1)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(SupervisorError) as raised:
            await store.commit(Batch(project=A, checkpoint=checkpoint(next_n=2)))
        read_meanwhile = (await store.project_state(A)).checkpoint

    assert raised.value.code is ErrorCode.STORE_UNAVAILABLE
    assert raised.value.retryable
    assert read_meanwhile == checkpoint(next_n=1)
    await store.commit(Batch(project=A, checkpoint=checkpoint(next_n=3)))
    assert (await store.project_state(A)).checkpoint == checkpoint(next_n=3)


async def test_locked_at_open_is_unavailable_and_opens_after(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert (await refusal(path)).code is ErrorCode.STORE_UNAVAILABLE

    made = opened_at(path)
    await made.open()
    assert await made.projects() == []
    await made.close()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"this is no database, however long it may be" * 100, id="text"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 4096, id="header only"),
    ],
)
async def test_a_file_that_is_no_database_is_corrupt_and_left_alone(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    path.chmod(0o644)

    error = await refusal(path)

    assert error.code is ErrorCode.STORE_CORRUPT
    assert str(path) in error.message
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_damaged_page_is_found_at_open(path: Path) -> None:
    await filled(path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 8192)

    error = await refusal(path)

    assert error.code is ErrorCode.STORE_CORRUPT
    assert str(path) in error.message


async def test_damage_met_later_is_corrupt_too(store: SqlStore, path: Path) -> None:
    rows = [item(f"i{n}", started_n=n, body=b"x" * 500) for n in range(4_000)]
    await store.commit(Batch(project=A, items={("", "", row.item_id): row for row in rows}))
    await store.close()
    await store.open()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for at in range(8192, size, 4096):
            file.seek(at)
            file.write(b"\xa5" * 4096)

    with pytest.raises(SupervisorError) as raised:
        await store.items(A, "t1", ["u1"])

    assert raised.value.code is ErrorCode.STORE_CORRUPT


async def test_a_newer_schema_is_refused_and_the_file_not_touched(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    path.chmod(0o640)
    before = path.read_bytes()

    error = await refusal(path)

    assert error.code is ErrorCode.STORE_TOO_NEW
    assert "9999" in error.message
    assert not error.retryable
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()

    assert (await refusal(path)).code is ErrorCode.STORE_CORRUPT
    assert path.read_bytes() == before


async def test_missing_directory_is_unavailable(tmp_path: Path) -> None:
    assert (await refusal(tmp_path / "no" / "s.db")).code is ErrorCode.STORE_UNAVAILABLE


async def test_files_are_the_owners_alone_whatever_the_umask(path: Path) -> None:
    mask = os.umask(0)
    try:
        made = opened_at(path)
        await made.open()
        await made.commit(Batch(project=A, checkpoint=checkpoint()))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
        await made.close()
    finally:
        os.umask(mask)

    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


async def test_a_file_others_could_read_is_made_the_owners_alone(path: Path) -> None:
    await filled(path)
    path.chmod(0o644)
    made = opened_at(path)
    await made.open()
    await made.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    made = opened_at(path)
    await made.open()
    await made.put_project(project_row())
    await made.close()

    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "url", ["postgresql://h/db", "sqlite://", "sqlite:///:memory:", "nonsense", ""]
)
def test_a_url_of_no_file_is_a_bad_setting(url: str) -> None:
    with pytest.raises(SupervisorError) as raised:
        SqlStore(url, clock=SystemClock())
    assert raised.value.code is ErrorCode.SETTINGS_INVALID


def test_a_password_in_a_bad_url_is_not_repeated() -> None:
    with pytest.raises(SupervisorError) as raised:
        SqlStore("postgresql://u:hunter2@h/db", clock=SystemClock())
    assert "hunter2" not in str(raised.value.as_dict())


async def test_project_state_is_one_moment(store: SqlStore) -> None:
    """Every commit writes one number to three tables; no read may see two numbers."""
    last = 60

    def batch(n: int) -> Batch:
        return Batch(
            project=A,
            checkpoint=checkpoint(next_n=n, window_n=0),
            events=[event(n)],
            threads={"t1": thread("t1", updated_at=float(n))},
            drop_events_below=n,
        )

    await store.commit(batch(1))

    async def write() -> None:
        for n in range(2, last + 1):
            await store.commit(batch(n))

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        while not writing.done():
            state = await store.project_state(A)
            assert state.checkpoint is not None
            n = state.checkpoint.next_n
            assert [row.n for row in state.events] == [n]
            assert [row.updated_at for row in state.threads] == [float(n)]


async def test_a_cancelled_commit_leaves_the_store_usable_and_whole(store: SqlStore) -> None:
    batch = Batch(project=A, checkpoint=checkpoint(window_n=0), events=[event(1), event(2)])
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(store.commit(batch))
        await asyncio.sleep(0)
        task.cancel()

    await store.commit(Batch(project=A, events=[event(9)], audit=[audit(1)]))

    assert [row.n for row in (await store.project_state(A)).events] in ([9], [1, 2, 9])
