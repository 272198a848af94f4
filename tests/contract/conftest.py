"""The stores the contract is tested over."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.ports.store import Store
from supervisor.stores.memory import MemoryStore
from supervisor.stores.sql import SqlStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = (
        MemoryStore()
        if request.param == "memory"
        else SqlStore(f"sqlite:///{tmp_path}/store.db", clock=SystemClock())
    )
    await made.open()
    yield made
    await made.close()
