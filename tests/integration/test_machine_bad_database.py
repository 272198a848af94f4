"""What the machine may do to the database: it is waited for and said, or refused and left alone."""

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from tests.conftest import require
from tests.integration.machine import Machine, Served, refusal, served
from tests.talk import eventually


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_locked_database_is_waited_for_and_said_and_nothing_is_lost(
    machine: Machine,
) -> None:
    async with served(machine.settings()) as host:
        project = await host.open(machine.project("healthy"))
        await host.turn(project)
        thread = (await host.call(project, "startThread"))["threadId"]
        with locked(machine.state_dir / "supervisor.db"):
            message = {"threadId": thread, "text": "text n=3", "idempotencyKey": "once"}
            error = await host.refused(project, "sendMessage", **message)
            assert error.code is ErrorCode.STORE_UNAVAILABLE
            assert error.retryable
            assert "Errno" not in error.message
            await host.call(project, "pingProject")  # what needs no store goes on
        sent = await host.call(project, "sendMessage", **message)
        assert not sent["replayed"]
        await host.turn(project)
        assert host.supervisor.readiness().ready


async def test_lines_are_shown_while_the_database_is_locked_and_committed_after(
    machine: Machine,
) -> None:
    async with served(machine.settings()) as host:
        project = await host.open(machine.project("healthy"))
        thread = (await host.call(project, "startThread"))["threadId"]
        stream = host.client.stream(project, "subscribe", {})
        await anext(stream)
        message = {"threadId": thread, "text": "slow n=30 delay=0.1"}
        await host.call(project, "sendMessage", **message)
        with locked(machine.state_dir / "supervisor.db"):
            while not host.metric("store_failures_total"):
                await anext(stream)
            assert (await host.call(project, "projectStatus"))["storeWaiting"]
            readiness = host.supervisor.readiness()
            assert not readiness.ready
            assert project in readiness.reasons[0]
        async for payload in stream:
            assert isinstance(payload, dict)
            if payload.get("message", {}).get("method") == "turn/completed":
                break
        await stream.aclose()
        audit = (await host.call(project, "listAudit"))["records"]
        assert [r["kind"] for r in audit][-1] == "turn.ended"
        assert not (await host.call(project, "projectStatus"))["storeWaiting"]


async def test_a_project_cannot_be_opened_while_the_database_is_locked_but_after(
    machine: Machine,
) -> None:
    directory = machine.project("new")
    async with served(machine.settings()) as host:
        with locked(machine.state_dir / "supervisor.db"):
            with pytest.raises(SupervisorError) as raised:
                await host.open(directory)
            assert raised.value.code is ErrorCode.STORE_UNAVAILABLE
            assert raised.value.retryable
        await host.turn(await host.open(directory))


async def test_a_supervisor_ends_though_the_database_is_locked_and_its_successor_tells(
    machine: Machine,
) -> None:
    settings = machine.settings(stop_grace_seconds=0.1)
    async with AsyncExitStack() as others:
        async with served(settings) as host:
            directory = machine.project("healthy")
            project = await host.open(directory)
            await host.turn(project)
            pid = (await host.call(project, "projectStatus"))["pid"]
            others.enter_context(locked(machine.state_dir / "supervisor.db"))
        assert not psutil.pid_exists(pid)
    async with served(settings) as host:
        await host.turn(await host.open(directory))
        audit = (await host.call(project, "listAudit"))["records"]
        ends = [r["detail"]["exit_kind"] for r in audit if r["kind"] == "agent.exited"]
        assert ends == ["vanished"]


async def test_an_app_server_that_dies_while_the_database_is_locked_is_replaced_after(
    machine: Machine,
) -> None:
    async with served(machine.settings()) as host:
        project = await host.open(machine.project("healthy"))
        await host.turn(project)
        with locked(machine.state_dir / "supervisor.db"):
            os.kill((await host.call(project, "projectStatus"))["pid"], signal.SIGKILL)
            await host.status(project, storeWaiting=True)
            error = await host.refused(project, "pingProject")
            assert error.code is ErrorCode.AGENT_NOT_READY
            assert error.retryable
            assert "the store is away" in error.message
        await host.status(project, generation=2)
        await host.turn(project)


async def test_a_database_locked_at_the_start_is_said(machine: Machine) -> None:
    machine.state_dir.mkdir(mode=0o700)
    database = machine.state_dir / "supervisor.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        error = await refusal(machine.settings())
    assert error.code is ErrorCode.STORE_UNAVAILABLE
    assert error.retryable
    assert str(database) in error.message
    async with served(machine.settings()) as host:
        await host.turn(await host.open(machine.project("healthy")))


async def test_a_corrupt_database_is_refused_and_left_as_it_is(machine: Machine) -> None:
    machine.state_dir.mkdir(mode=0o700)
    database = machine.state_dir / "supervisor.db"
    junk = b"this is no database\n" * 1000
    database.write_bytes(junk)
    error = await refusal(machine.settings())
    assert error.code is ErrorCode.STORE_CORRUPT
    assert str(database) in error.message
    assert not error.retryable
    assert database.read_bytes() == junk


async def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(
    machine: Machine,
) -> None:
    async with served(machine.settings()):
        pass
    database = machine.state_dir / "supervisor.db"
    with closing(sqlite3.connect(database)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = 'v9999'")
    before = database.read_bytes()
    error = await refusal(machine.settings())
    assert error.code is ErrorCode.STORE_TOO_NEW
    assert "v9999" in error.message
    assert not error.retryable
    assert database.read_bytes() == before


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir(mode=0o700)
    options = f"size={size},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    require(mounted.returncode == 0, "the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_a_full_disk_is_said_and_what_waits_is_written_once_there_is_room(
    machine: Machine,
) -> None:
    require(os.geteuid() == 0, "root, to mount a small disk")
    with small_disk(machine.state_dir, "2m"):
        async with served(machine.settings()) as host:
            project = await host.open(machine.project("healthy"))
            await host.turn(project)
            thread = (await host.call(project, "startThread"))["threadId"]
            filler = machine.state_dir / "filler"
            fill(filler)
            message = {"threadId": thread, "text": "x" * 100_000, "idempotencyKey": "once"}
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(sent_or_refused(host, project, message))
                await eventually(lambda: sending.done() or host.metric("store_failures_total") > 0)
                filler.unlink()
            refused = sending.result()
            assert refused is None or refused.code is ErrorCode.STORE_UNAVAILABLE
            assert refused is None or refused.retryable
            await host.call(project, "sendMessage", **message)
            audit = (await host.call(project, "listAudit", threadId=thread))["records"]
            assert [r["kind"] for r in audit if r["phase"] == "intent"] == ["turn.submitted"]
            await host.turn(project)


async def sent_or_refused(
    host: Served, project: str, message: dict[str, str]
) -> SupervisorError | None:
    """A commit that failed at its very end may not be given up: then the request waits."""
    try:
        await host.call(project, "sendMessage", **message)
    except SupervisorError as error:
        return error
    return None
