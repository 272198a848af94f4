"""What every store promises (supervisor.ports.store), over each that there is."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.audit.chain import FIRST_SEQ, Chain, verify
from supervisor.audit.record import Kind, Phase, draft
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Epoch, Generation, ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.store import Batch, IntentRow, ItemRow, ProjectState, Store, TurnRow
from supervisor.stores.memory import MemoryStore
from supervisor.stores.sql import SqlStore
from tests.contract.stored import (
    A,
    B,
    audit,
    checkpoint,
    event,
    generation,
    intent,
    item,
    project_row,
    server_request,
    thread,
    turn,
)

NOBODY = ProjectId("project-unheard-of")


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


def turns(*rows: TurnRow) -> dict[tuple[str, str], TurnRow]:
    return {(row.thread_id, row.turn_id): row for row in rows}


def items(*rows: ItemRow) -> dict[tuple[str, str, str], ItemRow]:
    return {(row.thread_id, row.turn_id, row.item_id): row for row in rows}


def intents(*rows: IntentRow) -> dict[str, IntentRow]:
    return {row.request_id: row for row in rows}


def everything(project: ProjectId) -> Batch:
    """A batch with a row of every kind, all of them of interest to `project_state`."""
    return Batch(
        project=project,
        checkpoint=checkpoint(project),
        generations={2: generation(2, project, pid=77, pid_start_ticks=5, boot_id="b")},
        events=[event(5, project, thread_id="t1")],
        threads={"t1": thread("t1", project, name="one")},
        intents=intents(intent("r-1", project, idempotency_key="k1")),
        turns=turns(turn("u1", project, request_id="r-1")),
        items=items(item("i1", project, partial_text="so far", partial_n=6)),
        server_requests={"1-0": server_request("1-0", project)},
        audit=[audit(1, project), audit(2, project)],
    )


async def test_unknown_project_has_no_state(store: Store) -> None:
    assert await store.project_state(NOBODY) == ProjectState(
        checkpoint=None,
        generations=[],
        events=[],
        threads=[],
        open_turns=[],
        open_items=[],
        pending_intents=[],
        waiting_requests=[],
    )
    assert await store.project(NOBODY) is None
    assert await store.audit(NOBODY, after_seq=0, limit=10) == []


async def test_every_row_comes_back_as_it_was_written(store: Store) -> None:
    batch = everything(A)
    await store.commit(batch)

    state = await store.project_state(A)

    assert state.checkpoint == batch.checkpoint
    assert state.generations == list(batch.generations.values())
    assert state.events == batch.events
    assert state.threads == list(batch.threads.values())
    assert state.open_turns == list(batch.turns.values())
    assert state.open_items == list(batch.items.values())
    assert state.pending_intents == list(batch.intents.values())
    assert state.waiting_requests == list(batch.server_requests.values())
    assert await store.audit(A, after_seq=0, limit=10) == batch.audit


async def test_numbers_of_64_bits_and_binary_survive(store: Store) -> None:
    row = event(2**63 - 1, offset=-(2**63), message=bytes(range(256)), at=1795176776.090123)
    await store.commit(Batch(project=A, events=[row]))

    assert (await store.project_state(A)).events == [row]


async def test_projects_are_listed_by_id_and_replaced(store: Store) -> None:
    await store.put_project(project_row(B))
    await store.put_project(project_row(A))
    await store.put_project(project_row(B, trusted=True, desired="stopped"))

    assert await store.projects() == [
        project_row(A),
        project_row(B, trusted=True, desired="stopped"),
    ]
    assert await store.project(B) == project_row(B, trusted=True, desired="stopped")


async def test_a_row_replaces_the_one_of_the_same_key(store: Store) -> None:
    await store.commit(everything(A))
    later = Batch(
        project=A,
        checkpoint=checkpoint(next_n=99, offset=9999),
        generations={2: generation(2, state="ended", ended_at=7.5, exit_kind="code")},
        events=[event(5, message=b"{}")],
        threads={"t1": thread("t1", status="active", name=None)},
        intents=intents(intent("r-1", state="done", outcome=b"{}", settled_at=8.0)),
        turns=turns(turn("u1", state="completed", ended_n=9, ended_at=9.0)),
        items=items(item("i1", state="completed", body=b'{"text":"all"}', completed_n=8)),
        server_requests={"1-0": server_request("1-0", state="resolved", settled_at=9.0)},
        audit=[audit(2, kind="turn.ended")],
    )
    await store.commit(later)

    state = await store.project_state(A)

    assert state.checkpoint == later.checkpoint
    assert state.generations == [later.generations[2]]
    assert state.events == later.events
    assert state.threads == [later.threads["t1"]]
    assert (state.open_turns, state.open_items) == ([], [])
    assert (state.pending_intents, state.waiting_requests) == ([], [])
    assert await store.turns(A, "t1", 5) == list(later.turns.values())
    assert await store.items(A, "t1", ["u1"]) == list(later.items.values())
    assert await store.audit(A, after_seq=0, limit=9) == [audit(1), audit(2, kind="turn.ended")]


async def test_of_two_rows_with_one_key_in_a_batch_the_later_counts(store: Store) -> None:
    await store.commit(
        Batch(
            project=A,
            events=[event(1, at=1.0), event(2), event(1, at=2.0)],
            audit=[audit(1), audit(1, kind="turn.ended")],
        )
    )

    assert (await store.project_state(A)).events == [event(1, at=2.0), event(2)]
    assert await store.audit(A, after_seq=0, limit=9) == [audit(1, kind="turn.ended")]


async def test_committing_the_same_batch_twice_changes_nothing(store: Store) -> None:
    await store.commit(everything(A))
    once = await store.project_state(A)
    await store.commit(everything(A))

    assert await store.project_state(A) == once
    assert len(await store.audit(A, after_seq=0, limit=10)) == 2


TOO_BIG = 2**63


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"checkpoint": checkpoint(next_n=TOO_BIG)}, id="checkpoint"),
        pytest.param({"generations": {3: generation(3, pid=TOO_BIG)}}, id="generation"),
        pytest.param({"events": [event(6), event(-TOO_BIG - 1)]}, id="event"),
        pytest.param({"turns": turns(turn("u2", started_n=TOO_BIG))}, id="turn"),
        pytest.param({"items": items(item("i2", completed_n=TOO_BIG))}, id="item"),
        pytest.param({"audit": [audit(3), audit(4, at=float("nan"))]}, id="audit"),
    ],
)
async def test_a_batch_with_one_impossible_row_changes_nothing(
    store: Store, broken: dict[str, Any]
) -> None:
    await store.commit(everything(A))
    before = await store.project_state(A)
    rows: dict[str, Any] = {
        "checkpoint": checkpoint(next_n=50),
        "threads": {"t9": thread("t9")},
        "intents": intents(intent("r-9")),
        "drop_events_below": 100,
    }

    with pytest.raises(SupervisorError) as raised:
        await store.commit(Batch(project=A, **(rows | broken)))

    assert raised.value.code is ErrorCode.INTERNAL
    assert not raised.value.retryable
    assert await store.project_state(A) == before
    assert len(await store.audit(A, after_seq=0, limit=10)) == 2


async def test_the_store_goes_on_after_a_refused_batch(store: Store) -> None:
    with pytest.raises(SupervisorError):
        await store.commit(Batch(project=A, events=[event(TOO_BIG)]))
    await store.commit(Batch(project=A, events=[event(1)]))

    assert (await store.project_state(A)).events == [event(1)]


async def test_projects_with_the_same_ids_do_not_meet(store: Store) -> None:
    await store.commit(everything(A))
    await store.commit(everything(B))
    before = await store.project_state(B)
    await store.commit(
        Batch(
            project=A,
            events=[event(6)],
            threads={"t1": thread("t1", status="archived")},
            intents=intents(intent("r-1", state="done", idempotency_key="k1")),
            turns=turns(turn("u1", state="failed", request_id="r-1")),
            items=items(item("i1", state="abandoned")),
            server_requests={"1-0": server_request("1-0", settled_at=1.0)},
            audit=[audit(1, kind="turn.ended")],
            drop_events_below=100,
        )
    )

    assert await store.project_state(B) == before
    assert (await store.project_state(A)).events == []
    assert await store.threads(B) == [thread("t1", B, name="one")]
    assert await store.audit(B, after_seq=0, limit=9) == [audit(1, B), audit(2, B)]
    mine = await store.intent_by_key(B, "local", "k1")
    assert mine is not None
    assert (mine.project, mine.state) == (B, "pending")
    owner = await store.turn_owner(B, "u1")
    assert owner is not None
    assert owner.project == B


async def test_events_below_a_number_are_dropped_after_the_new_ones_are_written(
    store: Store,
) -> None:
    await store.commit(Batch(project=A, events=[event(n) for n in range(1, 6)]))
    await store.commit(Batch(project=A, events=[event(6)], drop_events_below=4))

    assert [row.n for row in (await store.project_state(A)).events] == [4, 5, 6]


async def test_state_leaves_out_events_and_ended_generations_before_the_window(
    store: Store,
) -> None:
    await store.commit(
        Batch(
            project=A,
            checkpoint=checkpoint(window_n=3, window_generation=Generation(3)),
            events=[event(n) for n in (4, 2, 3)],
            generations={
                n: generation(n, state=state)
                for n, state in [(4, "spawning"), (3, "ended"), (2, "ended"), (1, "running")]
            },
        )
    )

    state = await store.project_state(A)

    assert [row.n for row in state.events] == [3, 4]
    assert [row.generation for row in state.generations] == [1, 3, 4]


async def test_state_holds_only_what_is_unfinished_oldest_first(store: Store) -> None:
    await store.commit(
        Batch(
            project=A,
            intents=intents(
                intent("r-3", n=3),
                intent("r-2", n=2, state="failed"),
                intent("r-1", n=1),
            ),
            turns=turns(
                turn("u3", started_n=3),
                turn("u2", started_n=2, state="interrupted"),
                turn("u1", started_n=1),
            ),
            items=items(
                item("i3", started_n=3),
                item("i2", started_n=2, state="abandoned"),
                item("i1", started_n=1),
            ),
            server_requests={
                "3": server_request("3", asked_n=3, state="answered", answer=b"{}"),
                "2": server_request("2", asked_n=2, state="resolved", settled_at=1.0),
                "1": server_request("1", asked_n=1),
            },
        )
    )

    state = await store.project_state(A)

    assert [row.request_id for row in state.pending_intents] == ["r-1", "r-3"]
    assert [row.turn_id for row in state.open_turns] == ["u1", "u3"]
    assert [row.item_id for row in state.open_items] == ["i1", "i3"]
    assert [row.approval_id for row in state.waiting_requests] == ["1", "3"]


async def test_threads_come_newest_first(store: Store) -> None:
    made = [thread("old", created_at=1.0), thread("new", created_at=3.0), thread("mid")]
    made[2] = msgspec.structs.replace(made[2], created_at=2.0)
    await store.commit(Batch(project=A, threads={row.thread_id: row for row in made}))

    assert [row.thread_id for row in await store.threads(A)] == ["new", "mid", "old"]


async def test_turns_are_the_last_ones_oldest_first(store: Store) -> None:
    rows = [turn(f"u{n}", started_n=n, state="completed") for n in (9, 3, 7, 5)]
    elsewhere = turn("u10", thread_id="t2", started_n=10)
    await store.commit(Batch(project=A, turns=turns(*rows, elsewhere)))

    assert [row.turn_id for row in await store.turns(A, "t1", 3)] == ["u5", "u7", "u9"]
    assert len(await store.turns(A, "t1", 100)) == 4
    assert await store.turns(A, "t1", 0) == []


async def test_items_are_those_of_the_turns_asked_for_as_they_started(store: Store) -> None:
    await store.commit(
        Batch(
            project=A,
            items=items(
                item("b", started_n=4, turn_id="u2"),
                item("a", started_n=2),
                item("c", started_n=1),
                item("d", started_n=3, turn_id="u3"),
                item("e", started_n=5, thread_id="t2"),
            ),
        )
    )

    assert [row.item_id for row in await store.items(A, "t1", ["u2", "u1"])] == ["c", "a", "b"]
    assert await store.items(A, "t1", []) == []


async def test_items_of_very_many_turns_can_be_asked_for_at_once(store: Store) -> None:
    many = [f"u{n}" for n in range(40_000)]
    await store.commit(
        Batch(
            project=A,
            items=items(item("x", turn_id="u39999", started_n=2), item("y", turn_id="u0")),
        )
    )

    assert [row.item_id for row in await store.items(A, "t1", many)] == ["y", "x"]


async def test_an_idempotency_key_belongs_to_an_account(store: Store) -> None:
    mine = intent("r-1", idempotency_key="k", account="alice", state="done")
    yours = intent("r-2", idempotency_key="k", account="bob")
    await store.commit(Batch(project=A, intents=intents(mine, yours, intent("r-3"))))

    assert await store.intent_by_key(A, "alice", "k") == mine
    assert await store.intent_by_key(A, "bob", "k") == yours
    assert await store.intent_by_key(A, "carol", "k") is None
    assert await store.intent_by_key(A, "alice", "other") is None


async def test_a_key_used_again_finds_the_last_intent(store: Store) -> None:
    first = intent("r-1", idempotency_key="k", state="failed", n=1)
    again = intent("r-2", idempotency_key="k", n=2)
    await store.commit(Batch(project=A, intents=intents(again, first)))

    assert await store.intent_by_key(A, "local", "k") == again


async def test_a_turn_leads_to_the_intent_that_started_it(store: Store) -> None:
    await store.commit(
        Batch(
            project=A,
            intents=intents(intent("r-1", principal="ann"), intent("r-2", turn_id="u1")),
            turns=turns(turn("u1", request_id="r-1"), turn("u2"), turn("u3", request_id="gone")),
        )
    )

    assert await store.turn_owner(A, "u1") == intent("r-1", principal="ann")
    assert await store.turn_owner(A, "u2") is None
    assert await store.turn_owner(A, "u3") is None
    assert await store.turn_owner(A, "u4") is None


async def test_generations_come_newest_first(store: Store) -> None:
    rows = {n: generation(n, state="ended") for n in (2, 10, 9)}
    await store.commit(Batch(project=A, generations=rows))

    assert [row.generation for row in await store.generations(A, 2)] == [10, 9]


async def test_audit_pages_by_number_and_narrows_to_a_thread(store: Store) -> None:
    rows = [audit(n, thread_id="odd" if n % 2 else None) for n in range(1, 8)]
    await store.commit(Batch(project=A, audit=rows))

    assert [row.seq for row in await store.audit(A, after_seq=2, limit=3)] == [3, 4, 5]
    found = await store.audit(A, after_seq=1, limit=2, thread_id="odd")
    assert [row.seq for row in found] == [3, 5]


async def test_a_batch_of_thousands_of_rows_is_whole(store: Store) -> None:
    rows = [item(f"i{n}", started_n=n) for n in range(2_077)]
    await store.commit(Batch(project=A, checkpoint=checkpoint(), items=items(*rows)))

    assert await store.items(A, "t1", ["u1"]) == rows


async def test_a_batch_filled_on_while_it_is_written_is_written_as_it_was(store: Store) -> None:
    batch = Batch(project=A, events=[event(1)])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.commit(batch))
        await asyncio.sleep(0)  # it has begun
        batch.events.append(event(2))

    assert (await store.project_state(A)).events == [event(1)]


async def test_commits_made_at_once_are_all_written(store: Store) -> None:
    async with asyncio.TaskGroup() as tasks:
        for n in range(40):
            tasks.create_task(
                store.commit(Batch(project=(A, B)[n % 2], events=[event(n, (A, B)[n % 2])]))
            )

    for number, project in enumerate((A, B)):
        state = await store.project_state(project)
        assert [row.n for row in state.events] == list(range(number, 40, 2))


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


async def test_a_closed_store_is_unavailable_and_opens_again(store: Store) -> None:
    await store.commit(everything(A))
    before = await store.project_state(A)
    await store.close()
    await store.close()

    with pytest.raises(SupervisorError) as raised:
        await store.commit(everything(B))
    assert raised.value.code is ErrorCode.STORE_UNAVAILABLE
    assert raised.value.retryable
    with pytest.raises(SupervisorError):
        await store.projects()

    await store.open()
    assert await store.project_state(A) == before
    assert (await store.project_state(B)).checkpoint is None


async def test_epochs_are_replaced_with_the_checkpoint(store: Store) -> None:
    await store.commit(Batch(project=A, checkpoint=checkpoint()))
    await store.commit(Batch(project=A, checkpoint=checkpoint(epoch=Epoch("e2"))))

    point = (await store.project_state(A)).checkpoint
    assert point is not None
    assert point.epoch == "e2"
