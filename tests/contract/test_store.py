"""What every store promises of a batch (supervisor.ports.store), over each that there is."""

import asyncio
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Epoch, ProjectId
from supervisor.ports.store import Batch, ProjectState, Store
from tests.contract.stored import (
    A,
    B,
    audit,
    checkpoint,
    event,
    generation,
    intent,
    intents,
    item,
    items,
    project_row,
    server_request,
    thread,
    turn,
    turns,
)

NOBODY = ProjectId("project-unheard-of")


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


async def test_a_projects_own_row_is_written_with_the_rest_of_its_batch(store: Store) -> None:
    await store.put_project(project_row(A))
    await store.put_project(project_row(B))
    wished = project_row(A, trusted=True, quarantine=None)
    await store.commit(Batch(project=A, wished=wished, events=[event(1)]))

    assert await store.projects() == [wished, project_row(B)]
    assert (await store.project_state(A)).events == [event(1)]

    await store.commit(Batch(project=A, events=[event(2)]))
    assert await store.project(A) == wished


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
    await store.put_project(project_row(A))
    before = await store.project_state(A)
    rows: dict[str, Any] = {
        "checkpoint": checkpoint(next_n=50),
        "threads": {"t9": thread("t9")},
        "intents": intents(intent("r-9")),
        "drop_events_below": 100,
        "wished": project_row(A, trusted=True),
    }

    with pytest.raises(SupervisorError) as raised:
        await store.commit(Batch(project=A, **(rows | broken)))

    assert raised.value.code is ErrorCode.INTERNAL
    assert not raised.value.retryable
    assert await store.project_state(A) == before
    assert await store.project(A) == project_row(A)
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
