"""What is begun is carried to its end, whoever goes away; only the agent's end ends it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from supervisor.agents.carrier import Carrier, to_the_end
from supervisor.errors import ErrorCode, SupervisorError


class Work:
    """Work that waits for the test in its middle."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.done = False

    async def run(self) -> str:
        self.begun.set()
        await self.go.wait()
        self.done = True
        return "done"

    async def fail(self) -> str:
        await self.run()
        raise SupervisorError(ErrorCode.STORE_UNAVAILABLE, "the store is away")


class AgentEndError(Exception):
    """Whatever ends an agent."""


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def code_of(asking: Coroutine[Any, Any, object]) -> ErrorCode:
    with pytest.raises(SupervisorError) as raised:
        await asking
    return raised.value.code


async def test_work_goes_on_though_its_asker_went_away() -> None:
    work = Work()
    async with Carrier() as carrier, asyncio.TaskGroup() as group:
        asker = group.create_task(carrier.carry(work.run()))
        await work.begun.wait()
        await cancelled(asker)
        work.go.set()
    assert work.done, "leaving waits for what is carried"


async def test_the_asker_gets_the_result_or_the_error() -> None:
    work = Work()
    work.go.set()
    async with Carrier() as carrier:
        assert await carrier.carry(work.run()) == "done"
        assert await code_of(carrier.carry(work.fail())) is ErrorCode.STORE_UNAVAILABLE


async def test_a_failure_that_nobody_waits_for_ends_nothing_else() -> None:
    failing, other = Work(), Work()
    failing.go.set()
    async with Carrier() as carrier:
        carrier.begin(failing.fail())
        begun = carrier.begin(other.run())
        await other.begun.wait()
        other.go.set()
        assert await begun == "done"
    assert failing.done


async def test_the_end_of_the_agent_is_told_to_all_who_wait() -> None:
    work = Work()
    async with asyncio.TaskGroup() as group:
        with pytest.RaisesGroup(AgentEndError):
            async with Carrier() as carrier:
                asker = group.create_task(code_of(carrier.carry(work.run())))
                await work.begun.wait()
                raise AgentEndError
        assert await asker is ErrorCode.AGENT_RESTARTED
    assert not work.done


async def test_work_that_the_agents_end_overtook_is_told_too() -> None:
    work = Work()
    with pytest.RaisesGroup(AgentEndError):
        async with Carrier() as carrier:
            begun = carrier.begin(work.run())
            raise AgentEndError  # before its first step
    with pytest.raises(SupervisorError) as raised:
        await begun
    assert (raised.value.code, raised.value.retryable) == (ErrorCode.AGENT_RESTARTED, True)
    assert not work.begun.is_set()


async def test_nothing_is_begun_once_the_agent_has_ended() -> None:
    work = Work()
    async with Carrier() as carrier:
        pass
    assert await code_of(carrier.carry(work.run())) is ErrorCode.AGENT_RESTARTED
    assert not work.begun.is_set()


async def test_a_cancellation_waits_for_what_must_come_to_its_end() -> None:
    work = Work()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(to_the_end(work.run()))
        await work.begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # impatience changes nothing
        await asyncio.sleep(0)
        assert not task.done()
        work.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert work.done


async def test_what_came_to_its_end_has_a_result_or_an_error() -> None:
    work = Work()
    work.go.set()
    assert await to_the_end(work.run()) == "done"
    assert await code_of(to_the_end(work.fail())) is ErrorCode.STORE_UNAVAILABLE
