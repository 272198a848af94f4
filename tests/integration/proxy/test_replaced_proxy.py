"""A proxy of the supervisor's own that is not to go on: it has other settings, or it hangs."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from supervisor.credentials.starting import SOCKET_NAME, Starter
from supervisor.errors import SupervisorError
from supervisor.settings_groups import ProxySettings
from supervisor.testing.model import ScriptedModel
from tests.contract.scripted import until
from tests.integration.proxy.boxes import Asked, box, link, reached, turn
from tests.integration.proxy.doors import DEADLINE

NEVER = 10 * DEADLINE


@asynccontextmanager
async def streaming(directory: Path, settings: ProxySettings, pid: int) -> AsyncIterator[Asked]:
    """A request that a proxy with these settings has under way; no supervisor is there any more."""
    async with link(directory, settings) as made:
        await made.open(reached(pid))
        asked = Asked(pid, "mock:stall after=1 n=3")
    try:
        await asked.until(b"response.output_text.delta")
        yield asked
    finally:
        asked.close()


async def test_one_with_other_settings_is_replaced_when_nothing_is_under_way_any_more(
    directory: Path,
) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            old = ProxySettings(base_url=model.base_url)
            new = old.model_copy(update={"connect_timeout_seconds": 31.0})
            async with (
                streaming(directory, old, process.pid) as asked,
                link(directory, new, ping_seconds=0.05, replace_seconds=NEVER) as made,
            ):
                await made.open(reached(process.pid))
                before = made.facts().pid
                assert made.facts().outdated
                model.release()
                await asked.until(b"response.completed")
                asked.close()
                await until(lambda: made.facts().served and not made.facts().outdated)
                assert made.facts().pid != before
                await turn(process.pid)


async def test_a_container_cannot_keep_one_with_other_settings(directory: Path) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            old = ProxySettings(base_url=model.base_url)
            new = old.model_copy(update={"connect_timeout_seconds": 31.0})
            async with (
                streaming(directory, old, process.pid),
                # Were it the ping that notices, it would do so too late.
                link(
                    directory, new, patience=DEADLINE, ping_seconds=NEVER, replace_seconds=0.2
                ) as made,
            ):
                await made.open(reached(process.pid))
                await until(lambda: made.facts().served and not made.facts().outdated)
                assert [request.outcome for request in model.requests] != ["completed"]
                await turn(process.pid)


async def test_one_that_lets_more_hosts_through_is_replaced_at_once(directory: Path) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            new = ProxySettings(base_url=model.base_url)
            old = new.model_copy(update={"connect_allow": ("index.example:443",)})
            async with (
                streaming(directory, old, process.pid),
                link(directory, new, patience=DEADLINE, replace_seconds=NEVER) as made,
            ):
                await made.open(reached(process.pid))
                assert not made.facts().outdated
                await turn(process.pid)


async def test_one_that_hangs_is_killed_and_its_successor_serves(directory: Path) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url)
            async with link(directory, settings) as made:
                await made.open(reached(process.pid))
                hung = psutil.Process(made.facts().pid)
            hung.suspend()
            async with link(directory, settings, answer_seconds=0.5) as made:
                # Whoever asks meanwhile is told.
                with pytest.raises(SupervisorError, match="does not answer"):
                    await made.open(reached(process.pid))
                await until(lambda: made.facts().served == 1)
                assert made.facts().pid != hung.pid
                await asyncio.to_thread(hung.wait, DEADLINE)
            await turn(process.pid)


def test_a_process_is_killed_for_its_silence_only_if_it_is_the_proxy_of_this_directory(
    tmp_path: Path,
) -> None:
    def silent(*words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sh", "-c", "read line", "sh", *words], stdin=subprocess.PIPE)

    socket = str(tmp_path / SOCKET_NAME)
    starter = Starter(ProxySettings(), tmp_path, {})
    elsewhere = str(tmp_path / "other" / SOCKET_NAME)
    with (
        silent("--on-demand", "--socket", socket, "x") as ours,
        silent("--on-demand", "--socket", elsewhere, "x") as other,
        silent("--socket", socket, "x") as unit,
    ):
        for process in (other, unit, ours):
            for _ in range(2):
                starter.silent(process.pid)
        starter.answered()
        for process in (other, unit):
            for _ in range(10):
                starter.silent(process.pid)
        for _ in range(2):
            starter.silent(ours.pid)
        starter.silent(ours.pid)
        assert ours.wait(DEADLINE) == -signal.SIGKILL
        for process in (other, unit):
            process.communicate(b"\n")
            assert process.returncode == 0
    # One that is gone, and what is none at all.
    for pid in (ours.pid, -1, 0, 2**40):
        for _ in range(4):
            starter.silent(pid)
