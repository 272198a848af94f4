"""Who holds an app-server: it runs again when the last one lets go."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.agents.pauses import PauseReason, Pauses
from supervisor.ports.runtime import Process

DISK, SPOOL = PauseReason.DISK, PauseReason.SPOOL


class Paused:
    """The part of a process that is paused; slow about it, as podman is."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def pause(self) -> None:
        self.calls.append("pause")
        await asyncio.sleep(0)

    async def unpause(self) -> None:
        self.calls.append("unpause")
        await asyncio.sleep(0)


@pytest.fixture
def process() -> Paused:
    return Paused()


@pytest.fixture
def pauses(process: Paused) -> Pauses:
    return Pauses(cast(Process, process))


async def test_two_reasons_do_not_let_each_other_run(pauses: Pauses, process: Paused) -> None:
    await pauses.hold(SPOOL, "the spool")
    await pauses.hold(DISK, "the disk")
    await pauses.let_go(SPOOL)
    assert pauses
    assert process.calls == ["pause"]
    await pauses.let_go(DISK)
    assert not pauses
    assert process.calls == ["pause", "unpause"]


async def test_it_says_why_it_is_paused(pauses: Pauses) -> None:
    assert pauses.words is None
    await pauses.hold(SPOOL, "the spool")
    await pauses.hold(DISK, "5 of 4")
    await pauses.hold(DISK, "6 of 4")
    assert pauses.words == "the spool; 6 of 4"
    await pauses.let_go(SPOOL)
    assert pauses.words == "6 of 4"


async def test_letting_go_of_what_was_not_held_is_harmless(pauses: Pauses, process: Paused) -> None:
    await pauses.let_go(DISK)
    assert process.calls == []


@given(st.lists(st.tuples(st.sampled_from(PauseReason), st.booleans()), max_size=12))
async def test_at_once_or_one_by_one_it_ends_as_the_last_of_each_said(
    orders: list[tuple[PauseReason, bool]],
) -> None:
    process = Paused()
    pauses = Pauses(cast(Process, process))
    async with asyncio.TaskGroup() as tasks:
        for reason, holds in orders:
            tasks.create_task(pauses.hold(reason, "x") if holds else pauses.let_go(reason))
    assert bool(pauses) == any(dict(orders).values())
    assert process.calls == ["pause", "unpause"] * (len(process.calls) // 2) + ["pause"] * (
        len(process.calls) % 2
    )
    assert bool(pauses) == bool(len(process.calls) % 2)
