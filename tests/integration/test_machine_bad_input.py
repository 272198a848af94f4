"""What the machine may do to codex, sockets and directories: each is told clearly and counted, and
others go on."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.app import TOKEN_BYTES, read_token
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.app_server import install
from tests.integration.machine import START_TIMEOUT, Machine, Served, refusal, served
from tests.talk import eventually


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# -- codex


async def test_a_missing_codex_is_said_and_others_go_on(machine: Machine) -> None:
    async with served(machine.settings()) as host:
        healthy = await host.open(machine.project("healthy"))
        await host.turn(healthy)
        machine.codex.unlink()
        lacking = await host.open(machine.project("lacking"))
        error = await host.refused(lacking, "startThread")
        assert error.code is ErrorCode.AGENT_QUARANTINED
        assert not error.retryable
        assert f"no codex to run at {machine.codex}" in error.message
        assert host.metric('agent_exits_total{kind="codex_missing"}') == 1
        assert host.metric('agents{state="quarantined"}') == 1
        await host.turn(healthy)


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        ("bad-version", "codex_version", "codex is 0.1.0, not 0.163.0"),
        ("exit-at-once", "start_failed", "told to exit"),
        ("silent", "start_timeout", f"no answer to initialize within {START_TIMEOUT:g} s"),
    ],
)
async def test_an_app_server_that_does_not_start_is_quarantined_and_others_go_on(
    machine: Machine, behaviour: str, kind: str, words: str
) -> None:
    async with served(machine.settings()) as host:
        healthy = await host.open(machine.project("healthy"))
        await host.turn(healthy)
        broken = machine.project("broken", behaviour)
        ill = await host.open(broken)
        status = await host.status(ill, state="quarantined")
        assert words in status["reason"]
        error = await host.refused(ill, "startThread")
        assert error.code is ErrorCode.AGENT_QUARANTINED
        assert not error.retryable
        assert words in error.message
        assert host.metric(f'agent_exits_total{{kind="{kind}"}}') >= 1
        await host.turn(healthy)
        install(broken, "ok")
        await host.call(ill, "restartProject")
        await host.turn(ill)


async def test_a_client_is_told_to_wait_while_an_app_server_is_silent(machine: Machine) -> None:
    settings = machine.settings(start_timeout_seconds=0.3)
    async with served(settings) as host:
        silent = await host.open(machine.project("broken", "silent"))
        error = await host.refused(silent, "pingProject")
        if error.code is not ErrorCode.AGENT_QUARANTINED:
            assert error.code is ErrorCode.AGENT_NOT_READY
            assert error.retryable


async def test_what_an_app_server_said_last_is_in_its_log(machine: Machine) -> None:
    async with served(machine.settings()) as host:
        ill = await host.open(machine.project("broken", "exit-at-once"))
        await host.status(ill, state="quarantined")
        assert "told to exit" in (await host.call(ill, "agentLogs"))["text"]


async def test_the_death_of_one_app_server_is_no_other_projects(machine: Machine) -> None:
    async with served(machine.settings()) as host:
        healthy = await host.open(machine.project("healthy"))
        dying = await host.open(machine.project("dying"))
        await host.call(dying, "pingProject")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(host.turn(healthy, "slow n=20 delay=0.02"))
            tasks.create_task(host.turn(dying, "die"))
        assert host.metric('agent_exits_total{kind="killed"}') == 1
        assert host.metric('turns_total{outcome="interrupted"}') == 1
        assert host.metric('turns_total{outcome="completed"}') == 1
        assert (await host.call(healthy, "projectStatus"))["generation"] == 1
        await host.turn(dying)
        assert (await host.call(dying, "projectStatus"))["generation"] == 2


async def test_a_project_that_is_being_stopped_says_so_even_if_codex_hangs(
    machine: Machine,
) -> None:
    # A turn that is to be interrupted first: the whole grace passes, and no answer comes.
    async with served(machine.settings(stop_grace_seconds=2)) as host:
        project = await host.open(machine.project("hanging"))
        thread = (await host.call(project, "startThread"))["threadId"]
        await host.call(project, "sendMessage", threadId=thread, text="hang")
        pid = (await host.call(project, "projectStatus"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(host.call(project, "stopProject"))
            await host.status(project, state="draining")
            error = await host.refused(project, "pingProject")
        assert error.code is ErrorCode.AGENT_DRAINING
        assert error.retryable
        assert stopping.result()["state"] == "stopped"
        stopped = await host.refused(project, "pingProject")
        assert stopped.code is ErrorCode.AGENT_NOT_READY
        assert not stopped.retryable
        await host.turn(await host.open(machine.root / "hanging"))


async def test_an_app_server_that_stops_answering_is_replaced(machine: Machine) -> None:
    settings = machine.settings(ping_interval_seconds=0.2, ping_timeout_seconds=START_TIMEOUT)
    async with served(settings) as host:
        project = await host.open(machine.project("hanging"))
        await host.turn(project)
        os.kill((await host.call(project, "projectStatus"))["pid"], signal.SIGSTOP)
        status = await host.status(project, state="ready", generation=2)
        assert status["restarts"] == 1
        assert host.metric('agent_exits_total{kind="unresponsive"}') == 1
        await host.turn(project)


async def test_a_key_of_a_request_that_was_not_tried_can_be_used_again(machine: Machine) -> None:
    async with served(machine.settings(requests_in_flight=2)) as host:
        project = await host.open(machine.project("busy"))
        thread = (await host.call(project, "startThread"))["threadId"]
        pid = (await host.call(project, "projectStatus"))["pid"]
        message = {"threadId": thread, "text": "text n=1", "idempotencyKey": "key"}
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):  # one place may be kept for the supervisor's own
                tasks.create_task(pinged_or_refused(host, project))
            refused, waiting = 'rpc_errors_total{code="overloaded"}', "upstream_requests_in_flight"
            await eventually(lambda: host.metric(waiting) + host.metric(refused) == 2)
            error = await host.refused(project, "sendMessage", **message)
            assert error.code is ErrorCode.OVERLOADED
            assert error.retryable
            os.kill(pid, signal.SIGCONT)
        sent = await host.call(project, "sendMessage", **message)
        assert not sent["replayed"]
        assert (await host.call(project, "sendMessage", **message)) == {**sent, "replayed": True}


async def pinged_or_refused(host: Served, project: str) -> None:
    with contextlib.suppress(SupervisorError):
        await host.call(project, "pingProject")


# -- directories


async def test_a_project_whose_directory_is_gone_is_quarantined_until_it_is_back(
    machine: Machine,
) -> None:
    async with served(machine.settings()) as host:
        directory = machine.project("moved")
        project = await host.open(directory)
        await host.turn(project)
        directory.rename(machine.root / "elsewhere")
        await host.call(project, "restartProject")
        status = await host.status(project, state="quarantined")
        assert str(directory) in status["reason"]
        (machine.root / "elsewhere").rename(directory)
        await host.call(project, "restartProject")
        await host.turn(project)


async def test_an_app_server_whose_files_cannot_be_made_is_quarantined_until_they_can(
    machine: Machine,
) -> None:
    async with served(machine.settings()) as host:
        healthy = await host.open(machine.project("healthy"))
        project = await host.open(machine.project("lacking"))
        await host.turn(project)
        await host.call(project, "stopProject")
        in_the_way = machine.state_dir / "projects" / project / "2" / "directory"
        in_the_way.mkdir(parents=True)
        await host.call(project, "restartProject")
        status = await host.status(project, state="quarantined")
        assert str(in_the_way.parent) in status["reason"]
        assert host.metric('agent_exits_total{kind="start_failed"}') == 2
        await host.turn(healthy)
        in_the_way.rmdir()
        await host.call(project, "restartProject")
        await host.turn(project)
        assert (await host.call(project, "projectStatus"))["generation"] == 2


# -- the port, the sockets


async def test_a_taken_port_is_named_and_nothing_that_runs_is_touched(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = await refusal(machine.settings(listen_port=port))
    assert error.code is ErrorCode.ADDRESS_IN_USE
    assert str(port) in error.message
    async with served(machine.settings()) as host:
        await host.turn(await host.open(machine.project("healthy")))


async def test_a_socket_path_too_long_is_said(machine: Machine) -> None:
    error = await refusal(machine.settings(state_dir=machine.root / ("long" * 30)))
    assert error.code is ErrorCode.SETTINGS_INVALID
    assert "state_dir" in error.hint


# -- the state directory


async def test_a_second_supervisor_names_the_first_which_goes_on(machine: Machine) -> None:
    async with served(machine.settings()) as host:
        healthy = await host.open(machine.project("healthy"))
        error = await refusal(machine.settings())
        assert error.code is ErrorCode.STATE_DIRECTORY_BUSY
        assert str(os.getpid()) in error.message
        assert error.details["pid"] == os.getpid()
        assert error.details["socket"] == str(host.supervisor.addresses.socket)
        await host.turn(healthy)


async def test_a_state_directory_others_can_write_is_refused(machine: Machine) -> None:
    machine.state_dir.mkdir()
    machine.state_dir.chmod(0o777)
    error = await refusal(machine.settings())
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert "0777" in error.message
    assert list(machine.state_dir.iterdir()) == []


async def test_a_state_directory_that_is_a_symlink_is_refused(machine: Machine) -> None:
    elsewhere = machine.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    machine.state_dir.symlink_to(elsewhere)
    error = await refusal(machine.settings())
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert "symbolic link" in error.message
    assert list(elsewhere.iterdir()) == []


async def test_a_token_that_others_can_read_is_refused(machine: Machine) -> None:
    token = machine.root / "token"
    token.write_text("known to all")
    token.chmod(0o644)
    error = await refusal(machine.settings(token_file=token))
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert str(token) in error.message
    assert token.read_text() == "known to all"


@pytest.mark.parametrize("left", ["", "\n"])
def test_a_token_file_left_empty_is_replaced_and_that_is_logged(tmp_path: Path, left: str) -> None:
    token = tmp_path / "token"
    token.write_text(left)
    token.chmod(0o600)
    with capture_logs() as logged:
        made = read_token(token)
        assert read_token(token) == made
    assert len(made) >= TOKEN_BYTES
    assert token.stat().st_mode & 0o777 == 0o600
    assert logged == [{"event": "empty_token_replaced", "path": str(token), "log_level": "warning"}]
    assert list(tmp_path.iterdir()) == [token]


def test_a_disk_that_is_full_leaves_no_empty_token_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from supervisor.app import read_token;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); read_token(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "token")],
        capture_output=True,
        check=False,
    )
    assert b"OSError" in done.stderr
    assert list(tmp_path.iterdir()) == []
