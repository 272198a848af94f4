"""What the store in memory can do beyond the contract: fail when told to."""

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import Batch
from supervisor.stores.memory import MemoryStore
from tests.contract.stored import A, event


async def test_it_fails_as_often_as_told_and_changes_nothing() -> None:
    store = MemoryStore()
    await store.open()
    store.fail_next(2, SupervisorError(ErrorCode.STORE_CORRUPT, "as told"))

    for _ in range(2):
        with pytest.raises(SupervisorError, match="as told"):
            await store.commit(Batch(project=A, events=[event(1)]))

    assert (await store.project_state(A)).events == []
    await store.commit(Batch(project=A, events=[event(2)]))
    assert (await store.project_state(A)).events == [event(2)]
    assert store.commits == 1


async def test_it_is_away_until_it_is_back() -> None:
    store = MemoryStore()
    await store.open()
    store.unavailable = True

    with pytest.raises(SupervisorError) as raised:
        await store.projects()
    assert raised.value.code is ErrorCode.STORE_UNAVAILABLE

    store.unavailable = False
    assert await store.projects() == []
