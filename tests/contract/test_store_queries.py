"""What every store finds again, and in what order."""

import msgspec

from supervisor.ids import Generation
from supervisor.ports.store import Batch, Store
from tests.contract.stored import (
    A,
    audit,
    checkpoint,
    event,
    generation,
    intent,
    intents,
    item,
    items,
    server_request,
    thread,
    turn,
    turns,
)


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
