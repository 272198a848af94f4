"""A delta is looked at once: numbered, folded into its open item and sent on from one decoding."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from supervisor.stores.memory import MemoryStore
from supervisor.testing.fakes import FakeClock
from tests.unit.agents.making import line, opened, shared

DELTAS = 50
ITEM: dict[str, Any] = {"threadId": "a", "turnId": "u", "itemId": "i"}
STARTED = line("item/started", threadId="a", turnId="u", item={"id": "i", "type": "agentMessage"})


def decodings(work: Callable[[], object]) -> int:
    """How often anything is decoded from JSON meanwhile, by msgspec or by anybody else."""
    count = 0

    def seen(_frame: FrameType, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and function.__name__ in {"decode", "json_decode", "scan_once"}:
            owner = type(getattr(function, "__self__", None)).__name__
            count += owner not in {"bytes", "bytearray", "str"}

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


async def test_a_delta_is_decoded_once_on_its_way_to_memory_and_subscribers(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.open()
    ledger = (await opened(shared(tmp_path, store, FakeClock()))).ledger
    ledger.ingest([STARTED])
    payloads = aiter(ledger.fanout.subscribe(ledger, None, None))
    await anext(payloads)  # the snapshot: what follows is live
    deltas = [line("item/agentMessage/delta", **ITEM, delta=f"{n} ") for n in range(DELTAS)]

    assert decodings(lambda: ledger.ingest(deltas)) == DELTAS
    assert decodings(lambda: None) == 0
    shown = [await anext(payloads) for _ in range(DELTAS)]
    assert all(delta in payload for delta, payload in zip(deltas, shown, strict=True))
    text = "".join(f"{n} " for n in range(DELTAS))
    assert ledger.projection.memory.items["a", "i"].text == text
