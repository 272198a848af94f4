"""What only a file on a disk can do to the store: be locked, full, damaged, of another version."""

import asyncio
import os
import signal
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.event import listens_for

from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import Batch
from supervisor.stores import read
from supervisor.stores.migrations import REVISIONS
from supervisor.stores.sql import SqlStore
from supervisor.stores.tables import METADATA
from tests.contract.stored import A, audit, checkpoint, event, item, project_row, thread

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def opened_at(path: Path) -> SqlStore:
    return SqlStore(f"sqlite+aiosqlite:///{path}", clock=SystemClock())


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


async def test_migrations_make_what_the_tables_describe(store: SqlStore, path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, METADATA)
    engine.dispose()

    assert differences == []


async def test_migrations_make_the_partial_indexes_described(store: SqlStore, path: Path) -> None:
    described = {
        index.name: str(index.dialect_options["sqlite"]["where"])
        for table in METADATA.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    }
    with closing(sqlite3.connect(path)) as raw:
        made = dict(
            raw.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
            )
        )

    assert {name: sql.split(" WHERE ")[1] for name, sql in made.items()} == described


async def test_no_query_of_the_state_reads_a_whole_table(store: SqlStore, path: Path) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []
    engine = create_engine(f"sqlite:///{path}")

    @listens_for(engine, "before_cursor_execute")
    def _(_c: object, _cursor: object, sql: str, values: tuple[object, ...], *_: object) -> None:
        asked.append((sql, values))

    with engine.connect() as connection:
        read.project_state(connection, A)
        read.intent_by_key(connection, A, "local", "k")
        read.turn_owner(connection, A, "u1")
        read.turns(connection, A, "t1", 10)
        read.audit(connection, A, 0, 10, "t1")
    engine.dispose()
    with closing(sqlite3.connect(path)) as raw:
        plans = [
            str(raw.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
            for sql, values in asked
        ]

    assert [plan for plan in plans if "SCAN" in plan] == []
    for index in (
        "turns_open",
        "items_open",
        "intents_pending",
        "server_requests_open",
        "intents_by_key",
    ):
        assert [plan for plan in plans if f"USING INDEX {index} " in plan] != [], index


def test_every_revision_is_named_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", "supervisor.stores:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config).walk_revisions()

    assert tuple(script.revision for script in scripts)[::-1] == REVISIONS


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


COMMITTER = """
import asyncio, sys
from pathlib import Path
from supervisor.clock import SystemClock
from supervisor.ports.store import Batch
from supervisor.stores.sql import SqlStore
from tests.contract.stored import A, audit, checkpoint, event, thread

async def main():
    store = SqlStore("sqlite:///" + sys.argv[1], clock=SystemClock())
    await store.open()
    point = (await store.project_state(A)).checkpoint
    n = point.next_n if point else 1
    while True:
        await store.commit(Batch(
            project=A, checkpoint=checkpoint(next_n=n + 3, window_n=0),
            events=[event(n), event(n + 1), event(n + 2)], audit=[audit(n)],
            threads={"t1": thread("t1", updated_at=float(n))},
        ))
        n += 3
        print(n, flush=True)

asyncio.run(main())
"""


async def child(code: str, path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(path),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )


async def killed_after(path: Path, commits: int) -> int:
    """Run the committer, kill it after so many acknowledged commits; the last number it said."""
    process = await child(COMMITTER, path)
    try:
        async with asyncio.timeout(DEADLINE):
            assert process.stdout is not None
            said = [await process.stdout.readline() for _ in range(commits)]
            process.send_signal(signal.SIGKILL)
            said += (await process.stdout.read()).splitlines(keepends=True)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return int([line for line in said if line.endswith(b"\n")][-1])


async def test_kill_9_loses_no_acknowledged_commit_and_leaves_no_half_of_one(path: Path) -> None:
    for commits in (1, 7, 40, 133):
        acknowledged = await killed_after(path, commits)

        made = opened_at(path)
        await made.open()
        state = await made.project_state(A)
        records = await made.audit(A, after_seq=0, limit=10_000)
        await made.close()

        assert state.checkpoint is not None
        reached = state.checkpoint.next_n
        assert reached in {acknowledged, acknowledged + 3}
        assert [row.n for row in state.events] == list(range(1, reached))
        assert [row.seq for row in records] == list(range(1, reached, 3))
        assert [row.updated_at for row in state.threads] == [float(reached - 3)]


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from supervisor.clock import SystemClock
from supervisor.errors import SupervisorError
from supervisor.ports.store import Batch
from supervisor.stores.sql import SqlStore
from tests.contract.stored import A, checkpoint, event

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    store = SqlStore("sqlite:///" + sys.argv[1], clock=SystemClock())
    await store.open()
    await store.commit(Batch(project=A, checkpoint=checkpoint(next_n=1, window_n=0)))
    limit(300_000)
    try:
        await store.commit(Batch(
            project=A, checkpoint=checkpoint(next_n=2, window_n=0),
            events=[event(1, message=b"x" * 1_000_000)],
        ))
    except SupervisorError as e:
        print(e.code.value, e.retryable)
    state = await store.project_state(A)
    print(state.checkpoint.next_n, len(state.events))
    limit(resource.RLIM_INFINITY)
    await store.commit(Batch(project=A, checkpoint=checkpoint(next_n=3, window_n=0)))
    print((await store.project_state(A)).checkpoint.next_n)
    await store.close()

asyncio.run(main())
"""


async def test_no_room_for_a_commit_is_unavailable_and_works_again_after(path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails in the same place."""
    process = await child(FULL_DISK, path)
    async with asyncio.timeout(DEADLINE):
        said, _ = await process.communicate()

    assert process.returncode == 0
    assert said.decode().splitlines() == ["store_unavailable True", "1 0", "3"]


async def test_a_cancelled_commit_leaves_the_store_usable_and_whole(store: SqlStore) -> None:
    batch = Batch(project=A, checkpoint=checkpoint(window_n=0), events=[event(1), event(2)])
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(store.commit(batch))
        await asyncio.sleep(0)
        task.cancel()

    await store.commit(Batch(project=A, events=[event(9)], audit=[audit(1)]))

    assert [row.n for row in (await store.project_state(A)).events] in ([9], [1, 2, 9])
