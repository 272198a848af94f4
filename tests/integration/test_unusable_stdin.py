"""An app-server that nobody can write to is no use: it is ended, and another takes its place."""

import os
import signal
from pathlib import Path

from tests.integration.hosted import hosted, watching
from tests.integration.troubled import ended, ready


async def test_one_whose_stdin_is_gone_when_it_is_adopted_is_replaced(tmp_path: Path) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        pid = await ready(host, project)
    host.spool(project).with_name("stdin").unlink()
    async with hosted(tmp_path, on_shutdown="stop") as host:
        await ready(host, project)
        assert (await host.call(project, "projectStatus"))["generation"] == 2
        assert ended(pid)


async def test_one_that_closes_its_stdin_and_stays_is_replaced(tmp_path: Path) -> None:
    async with hosted(tmp_path, ping_interval_seconds=0.05) as host:
        project = await host.open("p")
        thread = await host.thread(project)
        pid = await ready(host, project)
        async with watching(host, project) as seen:
            await host.send(project, thread, "deaf")
            await seen.until(lambda s: "supervisor/agentReady" in s.methods())
        assert (await host.call(project, "projectStatus"))["generation"] == 2
        assert ended(pid)
        kind, detail = host.rows("SELECT exit_kind, exit_detail FROM generations")[0]
        assert (kind, "stdin" in detail) == ("unresponsive", True)


async def test_the_end_of_one_with_a_closed_stdin_is_told_as_it_was(tmp_path: Path) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        pid = await ready(host, project)
    host.spool(project).with_name("stdin").unlink()
    async with hosted(tmp_path, on_shutdown="stop", stop_grace_seconds=30.0) as host:
        assert (await host.call(project, "projectStatus"))["pid"] == pid
        os.kill(pid, signal.SIGKILL)
        await ready(host, project)
        assert host.rows("SELECT exit_kind, exit_detail FROM generations WHERE generation = 1") == [
            ("killed", "signal 9")
        ]
