"""`codex-supervisor exec` and `shell`: in the real container, on one's own terminal, audited."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.settings import environment
from tests.containers import OWNER
from tests.rig import Rig, contained_rig, rig
from tests.talk import Talk, talk
from tests.terminals import command, completed, terminal

pytestmark = pytest.mark.codex


class Desk:
    """Where somebody types commands about one project."""

    def __init__(self, made: Rig, talking: Talk) -> None:
        self.rig = made
        self.talk = talking
        self.env = {"CODEX_SUPERVISOR_STATE_DIR": str(made.state_dir)}

    async def ran(self, *words: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """`exec` in the project, to its end."""
        arguments = ("exec", self.talk.project, *words)
        return await asyncio.to_thread(completed, self.env, *arguments, given=given)

    def started(self, *words: str) -> "subprocess.Popen[bytes]":
        """`exec` in the project, with what it starts a group of its own."""
        return subprocess.Popen(
            command("exec", self.talk.project, "--", *words),
            env={**environment(), **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    async def execs(self) -> list[tuple[str, dict[str, Any]]]:
        """Phase and detail of the audit records of commands, in order."""
        found = [r for r in await self.talk.audit() if r.kind == "container.exec"]
        return [(r.phase, json.loads(r.detail)) for r in found]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with contained_rig(tmp_path) as made:
        await made.start()
        async with talk(made) as talking:
            await talking.ready()
            yield Desk(made, talking)


async def test_a_command_is_the_agents_users_has_our_stdio_and_is_audited(desk: Desk) -> None:
    (desk.rig.project_dir / "sub").mkdir()
    script = "id -u; pwd; cat; echo oops >&2; ls /sys/class/net; exit 2"
    ran = await desk.ran("-C", "sub", "--", "sh", "-c", script, given=b"given\n")
    inside = f"{desk.rig.project_dir}/sub"
    assert ran.stdout.decode() == f"{OWNER}\n{inside}\ngiven\nlo\n"
    assert ran.stderr == b"oops\n"
    assert ran.returncode == 2
    missing = await desk.ran("--", "no-such-program", "-x")
    assert missing.returncode == 127
    intent, outcome, *others = await desk.execs()
    assert intent[0] == "intent"
    assert intent[1]["command"] == f"sh -c '{script}'"
    assert intent[1]["cwd"] == inside
    assert intent[1]["tty"] is False
    assert outcome[0] == "outcome"
    assert outcome[1]["exec_id"] == intent[1]["exec_id"]
    assert outcome[1]["exit_code"] == 2
    assert [phase for phase, _ in others] == ["intent", "outcome"]
    (record,) = [r for r in await desk.talk.audit() if json.loads(r.detail) == intent[1]]
    assert record.source.startswith(f"unix:uid={os.geteuid()},")
    assert record.generation == 1


async def test_a_shell_has_the_terminal(desk: Desk) -> None:
    async with terminal(desk.env, "shell", desk.talk.project) as shown:
        shown.type("test -t 0 && test -t 1 && echo a$((40 + 2))b $TERM\n")
        await shown.expect("a42b xterm-256color")
        # Ctrl-C is for what runs there; the call goes on.
        patient = (
            "trap 'echo c$((40 + 3))d; exit' INT; echo g$((1 + 1))o; while sleep 1; do :; done"
        )
        shown.type(f'sh -c "{patient}"\n'.replace("$", "\\$"))
        await shown.expect("g2o\n")
        shown.ctrl_c()
        await shown.expect("c43d\n")
        shown.type("exit 7\n")
        assert await shown.ended() == 7
    (_, intent), (_, outcome) = await desk.execs()
    assert intent["tty"] is True
    assert outcome["exit_code"] == 7


async def test_a_caller_that_dies_leaves_what_it_began_in_the_audit_log(desk: Desk) -> None:
    started = desk.started("sh", "-c", "echo up; exec sleep 600")
    assert started.stdout is not None
    assert started.stdin is not None
    try:
        assert await asyncio.to_thread(started.stdout.readline) == b"up\n"
        # It was committed before it ran.
        ((phase, _),) = await desk.execs()
        assert phase == "intent"
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        started.stdout.close()
        started.stdin.close()
    listed = await asyncio.to_thread(
        completed, desk.env, "audit", "list", "--project", desk.talk.project, "-k", "container"
    )
    assert b"nobody said how it ended" in b" ".join(listed.stdout.split())


async def test_a_caller_that_is_told_to_end_says_so(desk: Desk) -> None:
    started = desk.started("sh", "-c", "echo up; exec sleep 600")
    with started:
        assert started.stdout is not None
        assert await asyncio.to_thread(started.stdout.readline) == b"up\n"
        started.terminate()
        assert await asyncio.to_thread(started.wait) == 128 + signal.SIGTERM
    _, (phase, outcome) = await desk.execs()
    assert phase == "outcome"
    assert outcome["exit_code"] == 128 + signal.SIGTERM


async def test_it_is_refused_where_no_container_runs(desk: Desk) -> None:
    await desk.talk.call("stopProject")
    refused = await desk.ran("--", "true")
    assert refused.returncode == os.EX_TEMPFAIL
    assert b"the project is stopped" in refused.stderr
    assert b"restart" in refused.stderr
    assert await desk.execs() == []


async def test_it_is_refused_where_there_are_no_containers(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.start()
        async with talk(made) as talking:
            desk = Desk(made, talking)
            refused = await desk.ran("--", "touch", "made")
            assert refused.returncode == os.EX_DATAERR
            assert b"runs in no container" in refused.stderr
            assert not (made.project_dir / "made").exists()
            assert await desk.execs() == []
