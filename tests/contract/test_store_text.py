"""What every store does with text that not every engine can hold."""

from hashlib import sha256

import msgspec
import pytest

from supervisor.audit.chain import FIRST_SEQ, Chain, verify
from supervisor.audit.record import Kind, Phase, draft
from supervisor.policy.access import Principal
from supervisor.ports.store import Batch, Store
from tests.contract.stored import (
    A,
    audit,
    checkpoint,
    intent,
    intents,
    item,
    items,
    thread,
    turn,
    turns,
)


def refused(text: str, why: str) -> str:
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f'{{"refused":"{why}","sha256":"{digest}"}}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\0b", "U+0000"),
        ("é\0", "U+0000"),
        ("a\ud800b", "lone surrogate"),
        ("\udcff", "lone surrogate"),
        ("\ud83d\ude00", "lone surrogate"),
    ],
)
async def test_text_no_engine_holds_is_replaced_and_the_checkpoint_moves(
    store: Store, text: str, why: str
) -> None:
    await store.commit(
        Batch(
            project=A,
            checkpoint=checkpoint(next_n=77),
            threads={"t1": thread("t1", name=text)},
            items=items(item("i1", partial_text=text), item("i2", partial_text="fine")),
        )
    )

    state = await store.project_state(A)

    assert state.checkpoint == checkpoint(next_n=77)
    assert state.threads == [thread("t1", name=refused(text, why))]
    assert {row.item_id: row.partial_text for row in state.open_items} == {
        "i1": refused(text, why),
        "i2": "fine",
    }


async def test_text_beyond_the_first_plane_is_kept(store: Store) -> None:
    row = thread("t1", name="😀 é ￿", cwd="/srv/ü")
    await store.commit(Batch(project=A, threads={"t1": row}))

    assert await store.threads(A) == [row]


@pytest.mark.parametrize("bad", ["a\0", "\ud800", "k" * 100_000])
async def test_rows_are_found_by_the_id_they_were_written_with_even_a_bad_one(
    store: Store, bad: str
) -> None:
    other = bad + "x"
    await store.commit(
        Batch(
            project=A,
            intents=intents(
                intent("r-1", idempotency_key=bad), intent("r-2", idempotency_key=other)
            ),
            turns=turns(turn(bad, thread_id=bad, request_id="r-1")),
            items=items(item("i", thread_id=bad, turn_id=bad)),
            audit=[audit(1, thread_id=bad), audit(2, thread_id=other)],
        )
    )

    found = await store.intent_by_key(A, "local", bad)
    assert found is not None
    assert found.request_id == "r-1"
    assert len(await store.turns(A, bad, 5)) == 1
    assert len(await store.items(A, bad, [bad])) == 1
    owner = await store.turn_owner(A, bad)
    assert owner is not None
    assert owner.request_id == "r-1"
    assert [row.seq for row in await store.audit(A, after_seq=0, limit=9, thread_id=bad)] == [1]


async def test_a_chain_with_bad_ids_verifies_after_it_was_stored(store: Store) -> None:
    chain = Chain(A, "here")
    who = Principal(account="a\0", principal="p\ud800", source="s" * 5_000, client="ü\0")
    made = draft(Kind.COMMAND_RUN, Phase.OUTCOME, who, {"command": "echo \ud800\0", "cwd": None})
    rows = [
        chain.append(msgspec.structs.replace(made, thread_id=bad, item_id=bad), 1.5)
        for bad in ("plain", "a\0", "\ud800", "i" * 5_000)
    ]
    point = checkpoint(audit_seq=chain.seq, audit_hash=chain.head)
    await store.commit(Batch(project=A, checkpoint=point, audit=rows))

    stored = await store.audit(A, after_seq=FIRST_SEQ - 1, limit=10)

    assert stored == rows
    assert verify(stored, end=(point.audit_seq, point.audit_hash)).ok
    assert len(await store.audit(A, after_seq=0, limit=9, thread_id="a\0")) == 1
