"""Work that is carried to its end though whoever asked for it goes away in the middle.

Between a commit and what must follow it nobody may be cancelled: a number would be given twice, or
a committed answer never written. What is carried ends with the agent, and only with it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from supervisor.errors import ErrorCode, SupervisorError

T = TypeVar("T")


class Carrier:
    """Owned by one agent. Enter it before use; leaving it waits for what is carried."""

    def __init__(self) -> None:
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Carrier":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._tasks.__aexit__(*exc)

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. `agent_restarted` if the agent ends before it."""
        return await asyncio.shield(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """As `carry`, for whoever does not wait."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        carried = _into(done, work)
        try:
            task = self._tasks.create_task(carried)
        except RuntimeError:
            carried.close()
            work.close()
            raise _gone() from None
        task.add_done_callback(lambda _: _abandoned(done, work))
        return done


async def _into(done: asyncio.Future[T], work: Coroutine[Any, Any, T]) -> None:
    try:
        result = await work
    except Exception as e:  # noqa: BLE001  # the asker gets it, whatever it is
        done.set_exception(e)
        done.exception()  # seen: the asker may be gone
    else:
        done.set_result(result)


def _abandoned(done: asyncio.Future[T], work: Coroutine[Any, Any, T]) -> None:
    work.close()  # it may have been cancelled before its first step
    if not done.done():
        done.set_exception(_gone())
        done.exception()


def _gone() -> SupervisorError:
    return SupervisorError(
        ErrorCode.AGENT_RESTARTED, "the supervisor let go of this project in the middle"
    )


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which must end soon: a cancellation meanwhile waits for it."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    cancelled = False
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_into(done, work))
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return done.result()
