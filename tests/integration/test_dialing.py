"""A connection that is given up while it is being made."""

import asyncio
import gc
from pathlib import Path

import pytest

from supervisor.api.dialing import connect_unix

DEADLINE = 30.0


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_at_any_step_it_leaves_no_complaint(tmp_path: Path, steps: int) -> None:
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
    gone = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()
        gone.set()

    async def connect() -> None:
        async with connect_unix(tmp_path / "api.sock"):
            pass

    async with asyncio.timeout(DEADLINE):
        server = await asyncio.start_unix_server(hang_up, tmp_path / "api.sock")
        async with server:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(connect())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
            if steps:
                await gone.wait()
            for _ in range(5):
                await asyncio.sleep(0)
    del task
    gc.collect()
    assert complaints == []
