"""The next supervisor finds other settings, or a podman that does not work: what runs goes on where
it can, ends in order where it cannot, and the reason is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.audit.record import Kind
from supervisor.runtimes.podman_service import PodmanService
from supervisor.runtimes.podman_start import SERVICE
from tests.rig import ASKING, DEADLINE, FREE, Rig, contained_rig
from tests.talk import Talk, talk

pytestmark = pytest.mark.codex

WALLED = {"sandbox": "workspace-write", "approvalPolicy": "never"}
LOCKED = "database is locked"
FAULTY = """#!/bin/sh
case $(cat "{fault}" 2>/dev/null) in
    hangs) exec sleep 600 ;;
    fails) echo "Error: {locked}" >&2; exit 125 ;;
esac
exec podman "$@"
"""


@asynccontextmanager
async def contained(root: Path, **podman: object) -> AsyncIterator[tuple[Rig, Talk]]:
    async with contained_rig(root, podman=podman, stop_grace_seconds=2.0) as rig:
        await rig.start()
        async with talk(rig) as project:
            await project.ready()
            yield rig, project


def change(rig: Rig, **podman: object) -> None:
    """The settings of podman that the next supervisor has."""
    told = rig.settings["podman"]
    assert isinstance(told, dict)
    rig.settings["podman"] = {**told, **podman}


async def succeeded(rig: Rig, **podman: object) -> None:
    """Another supervisor takes the place of this one, with these settings of podman."""
    rig.kill()
    change(rig, **podman)
    await rig.start()


def end_service(rig: Rig) -> None:
    """podman's service answers for a while longer, whatever has become of podman."""
    assert rig.podman is not None
    PodmanService(rig.podman, rig.state_dir / "podman" / "run" / SERVICE).close()


async def exit_of_first(project: Talk) -> str:
    """Why the first app-server ended, as its audit record has it."""
    (ended,) = (r for r in await project.audit() if r.kind == Kind.AGENT_EXITED)
    return ended.detail.decode()


async def backing_off(project: Talk, why: str) -> None:
    """Wait until it is said that no app-server runs, and why."""
    async with asyncio.timeout(DEADLINE):
        while True:
            status = await project.status(state="backing_off")
            if why in (status["reason"] or ""):
                return
            await asyncio.sleep(0.05)


# -- a podman that does not work


class Fault:
    """A podman that works until told otherwise."""

    def __init__(self, root: Path) -> None:
        self._told = root / "fault"
        self.program = root / "podman"
        self.program.write_text(FAULTY.format(fault=self._told, locked=LOCKED))
        self.program.chmod(0o755)
        self.missing = root / "nowhere"

    def begin(self, what: str) -> None:
        self._told.write_text(what)

    def end(self) -> None:
        self._told.unlink(missing_ok=True)


@pytest.mark.parametrize("what", ["fails", "hangs", "missing"])
async def test_what_runs_goes_on_under_a_supervisor_whose_podman_does_not_work(
    tmp_path: Path, what: str
) -> None:
    fault = Fault(tmp_path)
    async with contained(tmp_path, program=str(fault.program)) as (rig, project):
        before = await project.ready()
        thread = await project.thread(ASKING)
        turn = await project.send(thread, "mock:exec cmd='touch asked'; mock:text n=20")
        approval = await project.asked(turn)
        rig.kill()
        await asyncio.to_thread(end_service, rig)
        fault.begin(what)
        program = fault.missing if what == "missing" else fault.program
        change(rig, program=str(program), patience_seconds=0.5)
        await rig.start()
        after = await project.ready()
        assert (after["generation"], after["confinement"]) == (1, before["confinement"])
        await project.answer(approval, "accept")
        assert await project.ended(turn) == "completed"
        assert (rig.project_dir / "asked").exists()
        fault.end()
        await succeeded(rig, program=str(fault.program), patience_seconds=30.0)
        assert (await project.ready())["pid"] == before["pid"]


async def test_what_cannot_be_started_says_why_until_podman_works_again(tmp_path: Path) -> None:
    fault = Fault(tmp_path)
    async with contained(tmp_path, program=str(fault.program)) as (rig, project):
        rig.kill()
        await asyncio.to_thread(end_service, rig)
        fault.begin("fails")
        await rig.start()
        await project.call("restartProject")
        await project.told("supervisor/agentExited", generation=1)
        await backing_off(project, LOCKED)
        fault.end()
        async with rig.dial() as client:
            await rig.open(client)
        assert (await project.ready())["generation"] > 1
        await project.run(await project.thread(), "mock:text n=1")


# -- other settings


async def test_an_agent_whose_project_is_elsewhere_by_now_is_started_anew(tmp_path: Path) -> None:
    async with contained(tmp_path, inner_wall="require") as (rig, project):
        thread = await project.thread(WALLED)
        await project.run(thread, "mock:text n=1")
        turn = await project.send(thread, "mock:stall after=2")
        await rig.model.wait_for_requests(2)
        await succeeded(rig, mount_point="/elsewhere")
        assert await project.ended(turn) == "interrupted"
        await project.told("supervisor/agentReady", generation=2)
        status = await project.ready()
        assert (status["inside"], status["reason"]) == ("/elsewhere", None)
        assert status["innerWall"]["state"] == "holds"
        why = await exit_of_first(project)
        assert '"asked"' in why
        assert "is to be at /elsewhere" in why
        await project.run(await project.thread(WALLED), "mock:exec cmd='pwd >at'; mock:text n=1")
        assert (rig.project_dir / "at").read_text() == "/elsewhere\n"


async def test_a_wall_that_is_required_by_now_is_had_by_a_new_start(tmp_path: Path) -> None:
    async with contained(tmp_path, inner_wall="off") as (rig, project):
        thread = await project.thread(FREE)
        await project.run(thread, "mock:text n=1")
        await succeeded(rig, inner_wall="require")
        await project.told("supervisor/agentReady", generation=2)
        status = await project.ready()
        assert (status["innerWall"]["state"], status["confinement"]["doubts"]) == ("holds", [])
        assert "is to be walled in" in await exit_of_first(project)
        await project.run(thread, "mock:exec cmd='touch /codex/out'; mock:text n=1")
        home = rig.state_dir / "projects" / project.project / "codex-home"
        assert not (home / "out").exists()


async def test_one_that_goes_on_pinned_otherwise_is_doubted(tmp_path: Path) -> None:
    async with contained(tmp_path, inner_wall="off") as (rig, project):
        assert (await project.ready())["confinement"]["doubts"] == []
        await succeeded(rig, inner_wall="prefer")
        status = await project.ready()
        assert status["generation"] == 1
        (doubt,) = status["confinement"]["doubts"]
        assert "pinned to other settings" in doubt
        await succeeded(rig, inner_wall="off")
        status = await project.ready()
        assert (status["generation"], status["confinement"]["doubts"]) == (1, [])


# -- another runtime


def mounts(rig: Rig) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(rig.state_dir) in line]


async def test_nothing_of_containers_stays_when_the_runtime_is_another(tmp_path: Path) -> None:
    async with contained(tmp_path) as (rig, project):
        thread = await project.thread()
        turn = await project.send(thread, "mock:stall after=2")
        await rig.model.wait_for_requests(1)
        rig.kill()
        program = rig.settings["podman"]
        rig.settings["runtime"] = "host"
        change(rig, program=str(tmp_path / "nowhere"))
        await rig.start()
        assert await project.ended(turn) == "interrupted"
        assert "containers_left" in rig.log.read_text()
        rig.kill()
        rig.settings["podman"] = program
        await rig.start()
        assert rig.containers() == mounts(rig) == []
        assert list((rig.state_dir / "podman" / "run").glob("*/marker")) == []
        assert (await project.ready())["runtime"] == "host"
        await project.run(await project.thread(), "mock:text n=1")
