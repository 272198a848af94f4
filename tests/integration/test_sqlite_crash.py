"""What is left of the database after a kill, or a full disk, in the middle of a commit."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.stores.sql import SqlStore
from tests.contract.stored import A

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def opened_at(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}", clock=SystemClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


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
