"""An agent that fails takes nothing with it: it is said, replaced, and nobody waits in vain."""

import asyncio
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from supervisor.api.dialing import connect_unix
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import Batch
from tests.integration.hosted import Hosted, Seen, hosted, watching
from tests.integration.serving import until
from tests.integration.troubled import (
    AWAY,
    Troubled,
    answered,
    ended,
    fail,
    ready,
    until_status,
)


async def refused(host: Hosted, project: str, method: str, **params: object) -> SupervisorError:
    with pytest.raises(SupervisorError) as raised:
        await host.call(project, method, **params)
    return raised.value


async def test_a_failed_agent_is_said_and_replaced_and_others_go_on(tmp_path: Path) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        broken, healthy = await host.open("broken"), await host.open("healthy")
        thread, other = await host.thread(broken), await host.thread(healthy)
        pid = await ready(host, broken)
        async with watching(host, healthy) as beside:
            turn = await host.send(healthy, other, "slow n=20 delay=0.02")
            await fail(host, store, broken)
            status = await host.call(broken, "projectStatus")
            assert (status["state"], "corrupt" in status["reason"]) == ("backing_off", True)
            listed = await host.call(None, "listProjects")
            assert {p["project"] for p in listed["projects"]} == {broken, healthy}
            for method, params in (
                ("sendMessage", {"threadId": thread, "text": "text"}),
                ("pingProject", {}),
            ):
                error = await refused(host, broken, method, **params)
                assert (error.code, error.retryable) == (ErrorCode.AGENT_NOT_READY, True)
                assert "the supervisor failed" in error.message
            await beside.until_end(turn)
        store.corrupt.clear()
        await host.open("broken")
        async with watching(host, broken) as seen:
            await seen.until_end(await host.send(broken, thread, "text n=2"))
        status = await host.call(broken, "projectStatus")
        assert (status["state"], status["pid"]) == ("ready", pid), "the app-server was adopted"


async def test_a_failed_agent_comes_back_though_nobody_asks(tmp_path: Path) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("broken")
        await fail(host, store, project)
        store.corrupt.clear()
        await until_status(host, project, "state", "ready")


async def test_what_waits_for_a_failing_agent_is_answered(tmp_path: Path) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store, stop_grace_seconds=30.0) as host:
        project = await host.open("broken")
        busy, thread = await host.thread(project), await host.thread(project)
        await host.send(project, busy, "hang")
        status = await host.call(project, "projectStatus")
        os.kill(status["pid"], signal.SIGSTOP)  # it answers nothing
        asked = [
            ("startThread", {}),
            ("pingProject", {}),
            ("sendMessage", {"threadId": thread, "text": "text"}),
        ]
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(answered(host, project, method, params))
                for method, params in asked
            ]
            await until(lambda: host.metric("upstream_requests_in_flight") >= 3)
            group.create_task(answered(host, project, "stopProject", {}))
            # It waits for the turn that it has interrupted.
            await until(lambda: host.metric("upstream_requests_in_flight") >= 4)
            await fail(host, store, project)
            codes = [await each for each in waiting]
        assert set(codes) <= {"agent_restarted", "agent_not_ready", "agent_draining"}
        store.corrupt.clear()
        await until(lambda: ended(status["pid"]))


async def test_subscribers_of_a_failed_agent_are_told_and_go_on_at_their_cursor(
    tmp_path: Path,
) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("broken")
        thread = await host.thread(project)
        seen = Seen()
        async with connect_unix(host.socket) as client, asyncio.TaskGroup() as group:
            reading = group.create_task(seen.run(client, project))
            await seen.until(lambda s: s.payloads)
            await fail(host, store, project)
            await asyncio.wait([reading])
        assert isinstance(reading.exception(), SupervisorError | None)
        store.corrupt.clear()
        await host.open("broken")
        last = json.loads(seen.payloads[-1])["cursor"]
        async with watching(host, project, after=last) as again:
            await again.until_end(await host.send(project, thread, "text n=2"))
            assert json.loads(again.payloads[0])["type"] == "event"


async def test_a_project_that_cannot_be_opened_at_boot_is_opened_later(tmp_path: Path) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        broken, healthy = await host.open("broken"), await host.open("healthy")
        pid = await ready(host, broken)
    store = Troubled(tmp_path)
    store.unopened[broken] = AWAY
    async with hosted(tmp_path, store) as host:
        assert (await host.call(healthy, "projectStatus"))["project"] == healthy
        error = await refused(host, broken, "projectStatus")
        assert (error.code, error.retryable) == (ErrorCode.AGENT_NOT_READY, True)
        store.unopened.clear()
        while True:  # nobody opens it
            listed = (await host.call(None, "listProjects"))["projects"]
            if [p["pid"] for p in listed if p["project"] == broken and p["state"] == "ready"]:
                break
            await asyncio.sleep(0.05)
        assert (await host.call(broken, "projectStatus"))["pid"] == pid


@pytest.mark.parametrize("when", ["at boot", "later"])
async def test_a_supervisor_that_ends_leaves_no_app_server_of_a_failed_agent(
    when: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("broken")
        pid = await ready(host, project)
    store = Troubled(tmp_path)
    if when == "at boot":
        store.unopened[project] = AWAY
    async with hosted(tmp_path, store, on_shutdown="stop") as host:
        if when == "later":
            await ready(host, project)
            await fail(host, store, project)
        assert psutil.pid_exists(pid)
    assert ended(pid)


async def test_a_project_that_takes_its_time_to_open_hides_nobody_else(tmp_path: Path) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        healthy = await host.open("healthy")
        store.slow.clear()
        async with asyncio.TaskGroup() as group:
            opening = [group.create_task(opened(host, "slow")) for _ in range(2)]
            await until(lambda: len(host.rows("SELECT 1 FROM projects")) == 2)
            listed = await host.call(None, "listProjects")
            assert [p["project"] for p in listed["projects"]] == [healthy]
            assert (await host.call(None, "hostStatus"))["version"]
            assert host.metric("subscribers") == 0
            assert host.supervisor.readiness().ready
            await host.supervisor.idle(0.001)
            store.slow.set()
            first, second = [await each for each in opening]
        assert first == second
        await host.call(first, "pingProject")


async def opened(host: Hosted, name: str) -> str:
    """Through a connection of its own."""
    directory = host.root / name
    directory.mkdir(exist_ok=True)
    async with connect_unix(host.socket) as client:
        status = await client.call(None, "openProject", {"path": str(directory)})
    assert isinstance(status, dict)
    return str(status["project"])


async def test_a_message_whose_commit_is_in_doubt_is_accepted_and_runs_once(
    tmp_path: Path,
) -> None:
    store = Troubled(tmp_path)
    async with hosted(tmp_path, store) as host:
        project = await host.open("p")
        thread = await host.thread(project)
        async with watching(host, project) as seen:
            store.doubt = "turn/start"
            turn = await host.send(project, thread, "text n=2")
            assert store.doubt is None
            await seen.until_end(turn)
            assert seen.methods().count("supervisor/turnSubmitted") == 1
            assert seen.methods().count("turn/started") == 1


async def test_an_app_server_that_dies_while_its_readiness_is_committed_costs_no_number(
    tmp_path: Path,
) -> None:
    class Held(Troubled):
        held, go = asyncio.Event(), asyncio.Event()

        async def commit(self, batch: Batch) -> None:
            await super().commit(batch)
            if any(b"agentReady" in e.message for e in batch.events) and not self.held.is_set():
                self.held.set()
                await self.go.wait()

    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        thread = await host.thread(project)
        await host.send(project, thread, "slow n=2000 delay=0.005")
        pid = (await host.call(project, "projectStatus"))["pid"]
    store = Held(tmp_path)
    async with hosted(tmp_path, store) as host:
        async with watching(host, project) as seen:
            await store.held.wait()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: ended(pid))
            store.go.set()
            await seen.until(lambda s: s.methods().count("supervisor/agentReady") == 2)
            shown = dict(seen.events)
        stored = host.rows("SELECT n, message FROM events")
        wrong = [n for n, message in stored if n in shown and shown[n] != message]
        assert not wrong
        assert sum(n in shown for n, _ in stored) >= 4


async def test_trust_withdrawn_at_once_with_a_stop_stays_withdrawn(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        for _ in range(3):
            await host.open("p")
            await host.call(project, "trustProject", trusted=True)
            async with asyncio.TaskGroup() as group:
                orders = {"trustProject": {"trusted": False}, "stopProject": {}}
                for method, params in orders.items():
                    group.create_task(answered(host, project, method, params))
            assert host.rows("SELECT trusted, desired FROM projects") == [(0, "stopped")]
            status = await host.call(project, "projectStatus")
            assert (status["trusted"], status["desired"]) == (False, "stopped")
