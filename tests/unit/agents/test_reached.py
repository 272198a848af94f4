"""What was confirmed is known beside the store: a database from a backup does not pass for it."""

from pathlib import Path

import msgspec
import pytest

from supervisor.agents.ledger import Change, own_event
from supervisor.agents.reached import Reached
from supervisor.ids import Epoch
from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.contract.stored import checkpoint
from tests.unit.agents.making import PROJECT, opened, shared

POINT = checkpoint(PROJECT, next_n=10, epoch=Epoch("0123456789abcdef"))


@pytest.mark.parametrize(
    ("found", "past"),
    [
        ({}, False),
        ({"next_n": 11}, False),
        ({"next_n": 9}, True),
        ({"epoch": Epoch("fedcba9876543210")}, True),
        ({"epoch": Epoch("fedcba9876543210"), "next_n": 99}, True),
    ],
    ids=str,
)
def test_a_store_may_hold_more_than_was_confirmed_and_never_less(
    found: dict[str, object], past: bool, tmp_path: Path
) -> None:
    reached = Reached(tmp_path)
    reached.note(msgspec.structs.replace(POINT, next_n=2**62))
    reached.note(POINT)
    assert reached.past(msgspec.structs.replace(POINT, **found)) is past


@pytest.mark.parametrize("content", [None, b"", b"0123456789abcdef", b"\xff", b"a b c"], ids=str)
def test_where_nothing_legible_is_kept_nothing_is_known(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "reached").write_bytes(content)
    assert not Reached(tmp_path).past(POINT)


async def test_an_older_store_renews_the_epoch_once(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.open()
    parts = shared(tmp_path, store, FakeClock())
    ledger = (await opened(parts)).ledger
    assert (await opened(parts)).discontinued is None
    await ledger.barrier(lambda n, at: Change(events=[own_event("supervisor/x", {})]))
    state = await store.project_state(PROJECT)
    assert state.checkpoint is not None
    newer = msgspec.structs.replace(state.checkpoint, next_n=state.checkpoint.next_n + 1)
    Reached(parts.project_dir(PROJECT)).note(newer)
    first = await opened(parts)
    assert first.discontinued == "the store has confirmed more than it holds"
    assert first.ledger.epoch != ledger.epoch
    second = await opened(parts)
    assert (second.discontinued, second.ledger.epoch) == (None, first.ledger.epoch)
