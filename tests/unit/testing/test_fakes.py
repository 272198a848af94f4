"""The clock a test holds in its hand."""

import asyncio
from datetime import timedelta

import pytest

from supervisor.testing.fakes import START, FakeClock, seeded


async def test_sleepers_wake_in_order_of_their_deadlines() -> None:
    clock, woken = FakeClock(), []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as tasks:
        for seconds in (3.0, 1.0, 2.0):
            tasks.create_task(sleep(seconds))
        await clock.wait_for_sleepers(3)
        clock.advance(2.5)
        await clock.wait_for_sleepers(1)
        assert clock.sleepers == 1
        clock.advance(1)
    assert woken == [1.0, 2.0, 3.0]


async def test_time_stands_still_until_advanced() -> None:
    clock = FakeClock()
    assert (clock.monotonic(), clock.now()) == (0.0, START)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.now()) == (1.5, START + timedelta(seconds=1.5))
    await clock.sleep(0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    async with asyncio.TaskGroup() as tasks:
        sleeping = tasks.create_task(clock.sleep(1))
        await clock.wait_for_sleepers(1)
        sleeping.cancel()
    assert clock.sleepers == 0
    clock.advance(2)


def test_seeded_chance_repeats_itself() -> None:
    assert seeded(7).random() == seeded(7).random() != seeded(8).random()
