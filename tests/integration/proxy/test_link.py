"""The supervisor's end, with real proxy processes and real network namespaces."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from supervisor.credentials.link import ProxyLink
from supervisor.credentials.netns import listen_inside, open_container
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.model_access import CONNECT_PORT, MODEL_PORT
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings
from supervisor.testing.model import ScriptedModel
from tests.contract.scripted import until
from tests.integration.proxy.boxes import Asked, box, connect_inside, link, listens, reached, turn
from tests.integration.proxy.doors import CANARY, DEADLINE, key_file

# What a supervisor does, in a process that can be killed.
SUPERVISOR = """
import asyncio, random, sys
from pathlib import Path
from supervisor.credentials.link import ProxyLink
from supervisor.ports.model_access import Reached
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings

async def main(directory, settings, pid):
    given = ProxySettings.model_validate_json(settings)
    async with ProxyLink(given, Path(directory), environment(), rng=random.Random()) as link:
        await link.open(Reached(project="p", generation=1, marker="p.1", pid=int(pid)))
        print(f"pid={link.facts().pid} served", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def taken_inside(pid: int) -> socket.socket:
    """The model's port, as a process of the container would take it."""
    pidfd = open_container(pid)
    [taken] = listen_inside(pid, pidfd, (MODEL_PORT,))
    os.close(pidfd)
    return taken


async def test_a_container_reaches_the_model_and_nothing_else(
    directory: Path, tmp_path: Path
) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
            async with link(directory, settings) as made:
                await made.open(reached(process.pid))
                await turn(process.pid)
                assert model.requests[0].authorization == f"Bearer {CANARY}"
                assert not listens(process.pid, CONNECT_PORT)
                with pytest.raises(OSError, match=r"refused|unreachable"):
                    connect_inside(process.pid, int(model.base_url.split(":")[2].split("/")[0]))
                facts = made.facts()
                assert (facts.connected, facts.credential, facts.served) == (True, True, 1)
                assert facts.base_url == model.base_url
                await made.open(reached(process.pid))
                assert made.facts().pid == facts.pid


async def test_the_connect_listener_is_opened_where_any_host_is_allowed(directory: Path) -> None:
    with box() as process:
        settings = ProxySettings(connect_allow=("index.example:443",))
        async with link(directory, settings) as made:
            await made.open(reached(process.pid))
            with connect_inside(process.pid, CONNECT_PORT) as sock:
                sock.sendall(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n")
                assert b"403" in await asyncio.to_thread(sock.recv, 1000)


async def test_the_key_is_nowhere_but_in_its_file(directory: Path, tmp_path: Path) -> None:
    secret = {"OPENAI_API_KEY": CANARY, "CODEX_SUPERVISOR_X": CANARY, **environment()}
    with box() as process:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
            made = ProxyLink(settings, directory, secret, rng=random.Random(1))
            async with asyncio.timeout(DEADLINE), made:
                await made.open(reached(process.pid))
                await turn(process.pid)
                model_away = Asked(process.pid, "mock:fail status=401")
                await model_away.until(b"401")
                model_away.close()
                proxy = psutil.Process(made.facts().pid)
                assert CANARY not in str(made.facts())
                for looked_at in [proxy, *psutil.process_iter()]:
                    with contextlib.suppress(psutil.Error):
                        assert CANARY not in str(looked_at.cmdline())
                        assert CANARY not in str(looked_at.environ())
        for file in [path for path in directory.rglob("*") if path.is_file()]:
            assert CANARY not in file.read_text(), file
            assert file.stat().st_mode & 0o077 == 0, file
        assert "proxy_serves" in (directory / "proxy.log").read_text()


async def test_a_killed_supervisor_cuts_no_stream_and_its_successor_changes_nothing(
    directory: Path, tmp_path: Path
) -> None:
    with box() as process:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url)
            argv = [sys.executable, "-c", SUPERVISOR, str(directory), settings.model_dump_json()]
            victim = await asyncio.create_subprocess_exec(
                *argv, str(process.pid), stdout=asyncio.subprocess.PIPE
            )
            try:
                assert victim.stdout is not None
                said = await victim.stdout.readuntil(b"served\n")
                asked = Asked(process.pid, "mock:stall after=1 n=3")
                await asked.until(b"response.output_text.delta")
            finally:
                victim.kill()
                await victim.communicate()
            async with link(directory, settings) as made:
                await made.open(reached(process.pid))
                assert f"pid={made.facts().pid}" in said.decode()
                model.release()
                await asked.until(b"response.completed")
                asked.close()
                await turn(process.pid)
            assert [request.outcome for request in model.requests] == ["completed"] * 2


async def test_a_killed_proxy_is_replaced_and_every_live_container_served_again(
    directory: Path, tmp_path: Path
) -> None:
    with box() as first, box() as second, box() as ended:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
            async with link(directory, settings) as made:
                for number, process in enumerate((first, second, ended)):
                    await made.open(reached(process.pid, f"p.{number}"))
                assert made.facts().served == 3
                for _ in range(2):
                    before = made.facts().pid
                    assert before is not None
                    os.kill(before, signal.SIGKILL)
                    ended.kill()
                    await until(lambda b=before: made.facts().pid != b and made.facts().served == 2)
                    await turn(first.pid)
                    await turn(second.pid)
                assert made.facts().waiting == 0
                assert {r.authorization for r in model.requests} == {f"Bearer {CANARY}"}


async def test_closing_ends_the_listener_and_the_end_of_the_container_too(directory: Path) -> None:
    with box() as process:
        async with link(directory, ProxySettings()) as made:
            await made.open(reached(process.pid))
            await made.close("p.1")
            await made.close("unknown")
            await until(lambda: not listens(process.pid, MODEL_PORT))
            await made.open(reached(process.pid, "p.2"))
            process.kill()
            await until(lambda: made.facts().served == 0)
            with pytest.raises(SupervisorError) as raised:
                await made.open(reached(process.pid, "p.3"))
            assert raised.value.code is ErrorCode.MODEL_UNREACHABLE


async def test_a_port_that_is_taken_inside_is_tried_again_until_it_is_free(directory: Path) -> None:
    with box() as process:
        taken = taken_inside(process.pid)
        async with link(directory, ProxySettings()) as made:
            with pytest.raises(SupervisorError, match="in use") as raised:
                await made.open(reached(process.pid))
            assert raised.value.code is ErrorCode.MODEL_UNREACHABLE
            assert raised.value.retryable
            assert made.facts().waiting == 1
            taken.close()
            await until(lambda: made.facts().served == 1)


async def test_an_adopted_container_is_served_as_it_was_whenever_it_becomes_known(
    directory: Path,
) -> None:
    with box() as process, box() as other:
        async with link(directory, ProxySettings()) as made:
            await made.open(reached(process.pid))
            before = made.facts().pid
        async with link(directory, ProxySettings()) as made:
            # So it has asked what is held before it is told of the adopted one.
            await made.open(reached(other.pid, "p.2"))
            await made.open(reached(process.pid))
            facts = made.facts()
            assert (facts.pid, facts.served, facts.waiting) == (before, 2, 0)


async def test_a_port_taken_in_the_gap_after_the_proxys_end_is_waited_for(directory: Path) -> None:
    with box() as process:
        async with link(directory, ProxySettings()) as made:
            await made.open(reached(process.pid))
            proxy = psutil.Process(made.facts().pid)
        proxy.kill()
        await asyncio.to_thread(proxy.wait, DEADLINE)
        await until(lambda: not listens(process.pid, MODEL_PORT))
        taken = taken_inside(process.pid)
        async with link(directory, ProxySettings(), patience=DEADLINE) as made:
            with pytest.raises(SupervisorError, match="in use"):
                await made.open(reached(process.pid))
            assert (made.facts().served, made.facts().waiting) == (0, 1)
            taken.close()
            await until(lambda: made.facts().served == 1)
            assert made.facts().waiting == 0


async def test_a_proxy_that_cannot_start_says_why(directory: Path) -> None:
    with box() as process:
        settings = ProxySettings(credential="openai")
        async with link(directory, settings, patience=DEADLINE) as made:
            with pytest.raises(SupervisorError, match="systemd gave no credentials") as raised:
                await made.open(reached(process.pid))
            assert raised.value.code is ErrorCode.MODEL_UNREACHABLE
            assert not made.facts().connected


async def test_a_unit_that_is_away_is_waited_for_and_never_started(
    directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "proxy.sock"
    settings = ProxySettings(socket=path)
    with box() as process:
        async with link(directory, settings, patience=0.2) as made:
            with pytest.raises(SupervisorError, match="nobody answers"):
                await made.open(reached(process.pid))
            command = [sys.executable, "-m", "supervisor.cli.main", "proxy", "--socket", str(path)]
            unit = await asyncio.create_subprocess_exec(
                *command, "--state-dir", str(tmp_path), stderr=subprocess.DEVNULL
            )
            try:
                await until(lambda: made.facts().served == 1)
                assert made.facts().pid == unit.pid
            finally:
                unit.terminate()
            assert await unit.wait() == 0
            await until(lambda: not made.facts().connected)
    assert not path.exists()
    assert not directory.exists()


async def test_a_stranger_on_the_socket_is_no_proxy(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with box() as process, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as odd:
        odd.bind(str(path))
        odd.listen()
        odd.setblocking(False)
        async with link(directory, ProxySettings(socket=path), patience=0.5) as made:
            opening = asyncio.gather(made.open(reached(process.pid)), return_exceptions=True)
            loop = asyncio.get_running_loop()
            accepted, _ = await loop.sock_accept(odd)
            await loop.sock_sendall(accepted, b"SSH-2.0-OpenSSH_9.2")
            [error] = await opening
            assert isinstance(error, SupervisorError)
            assert error.code is ErrorCode.MODEL_UNREACHABLE
            accepted.close()
