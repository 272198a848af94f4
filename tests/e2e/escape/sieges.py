"""All attempts on one container, and what the host saw of it meanwhile."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.agents.spool import SpoolPaths
from supervisor.ids import Generation
from supervisor.runtimes.podman_command import Podman
from tests.containers import LIMITS, OWNER, Boxes, require_podman
from tests.contract.scripted import Scripts
from tests.e2e.escape import cages
from tests.e2e.escape.ground import Ground, Results, ground
from tests.e2e.escape.inside.attempting import PRIVILEGED
from tests.e2e.escape.inside.every import CATALOGUE
from tests.rig import ASKING, FREE, Rig, contained_rig
from tests.talk import Talk, eventually, talk

WALLED = {"sandbox": "workspace-write", "approvalPolicy": "never"}
BESIDE, BY_THE_MODEL, IN_CODEXS_SANDBOX = "beside codex", "by the model", "in codex's own sandbox"


@dataclass(frozen=True)
class Siege:
    """What came of it."""

    results: Results
    reached: list[str]
    """Listeners of the host that somebody came to."""
    forged: bool
    """Whether a line of the attacker's is in the spool."""
    cores: list[Path] = field(default_factory=list)
    """What a crash of the app-server left in the project."""
    answered: str = ""
    """What had become of the approval that waited meanwhile, for whom it did."""


@contextmanager
def _laid_out(root: Path) -> Iterator[tuple[Ground, Boxes, Scripts]]:
    variables = require_podman(root)
    # What is not mounted is to be the wall, not a mode.
    root.chmod(0o755)
    scripts = Scripts(root, f"escape-{os.getpid()}-{root.name}")
    boxes = Boxes(root, variables)
    with ground(root, scripts.project, LIMITS) as made:
        yield made, boxes, scripts
    boxes.podman.close()
    shutil.rmtree(root)


def _siege(laid: Ground, results: Results, spool: Path, cores: list[Path] | None = None) -> Siege:
    forged = laid.forged.encode() in spool.read_bytes()
    return Siege(results, laid.reached(), forged=forged, cores=cores or [])


def beside_codex(root: Path) -> Siege:
    """As a process of the agent's uid, beside the app-server, in our container."""
    with _laid_out(root) as (laid, boxes, scripts):
        return asyncio.run(_beside_codex(laid, boxes, scripts))


async def _beside_codex(laid: Ground, boxes: Boxes, scripts: Scripts) -> Siege:
    podman = Podman(boxes.variables, patience=cages.PATIENCE)
    async with cages.ours(boxes, scripts, laid.root / "copies") as (caged, asker):
        results = await asyncio.to_thread(cages.attack, laid, podman, caged)
        # Nothing of it was too much for it.
        await asker.ask("thread/loaded/list", {})
        cores = await asyncio.to_thread(cages.dumped, laid, podman, caged)
    return _siege(laid, results, caged.launch.stdout, cores)


def in_a_plain_one(root: Path) -> Siege:
    """All of it in what `podman run` gives of itself, to the same uid."""
    with _laid_out(root) as (laid, boxes, scripts):
        podman = Podman(boxes.variables, patience=cages.PATIENCE)
        with cages.plain(laid, podman, scripts) as caged:
            results = cages.attack(laid, podman, caged)
            cores = cages.dumped(laid, podman, caged)
        return _siege(laid, results, caged.launch.stdout, cores)


def in_a_privileged_one(root: Path) -> Siege:
    """What only the machine's root can do."""
    names = [name for name, one in CATALOGUE.items() if one.control == PRIVILEGED]
    with _laid_out(root) as (laid, boxes, scripts):
        podman = Podman(boxes.variables, patience=cages.PATIENCE)
        with cages.privileged(laid, podman, scripts) as caged:
            results = cages.attack(laid, podman, caged, names)
        return _siege(laid, results, caged.launch.stdout)


# -- with a supervisor


def by_the_model(root: Path) -> dict[str, Siege]:
    """As commands that the model runs: free, and in Codex's own sandbox."""
    return asyncio.run(_by_the_model(root))


async def _by_the_model(root: Path) -> dict[str, Siege]:
    limits = {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__}
    async with contained_rig(root, punch_spools=False, podman={"limits": limits}) as rig:
        await rig.start()
        async with talk(rig) as project:
            with ground(root, rig.project_dir, LIMITS) as laid:
                await _reveal(rig, laid)
                return {
                    BY_THE_MODEL: await _turned_loose(rig, laid, project, FREE, "free"),
                    IN_CODEXS_SANDBOX: await _turned_loose(rig, laid, project, WALLED, "walled"),
                }


async def _reveal(rig: Rig, laid: Ground) -> None:
    """Tell where the real ones are, those of another project among them."""
    other = rig.root / "other"
    other.mkdir()
    os.chown(other, OWNER, OWNER)
    async with rig.dial() as client:
        status = await client.call(None, "openProject", {"path": str(other)})
        assert isinstance(status, dict)
        await client.call(str(status["project"]), "pingProject", {})
    state = rig.state_dir
    paths = SpoolPaths(state / "projects" / str(status["project"]), Generation(1))
    for name, found in (
        ("other state", [paths.stdout, paths.stdin]),
        ("store", [state / "supervisor.db"]),
        ("token", [state / "token"]),
        ("credential", [Path(str(rig.settings["proxy"]["key_file"]))]),  # type: ignore[index]
    ):
        assert all(path.exists() for path in found)
        laid.secrets[name] = [*map(str, found), *laid.secrets[name]]
    for name, socket in (("supervisor", rig.socket), ("proxy", state / "proxy" / "proxy.sock")):
        assert socket.is_socket()
        laid.sockets[name] = [str(socket), *laid.sockets[name]]


async def _turned_loose(
    rig: Rig, laid: Ground, project: Talk, policy: dict[str, str], name: str
) -> Siege:
    """Let the model run all attempts in a thread of that policy, while another thread waits for an
    approval."""
    waiting = await project.thread(ASKING)
    asking = await project.send(waiting, f"mock:exec cmd='touch approved-{name}'; mock:text n=1")
    approval = await project.asked(asking)
    paths = SpoolPaths(rig.state_dir / "projects" / project.project, Generation(1))
    stdio = {"stdin": paths.stdin, "stdout": paths.stdout, "stderr": paths.stderr}
    armed = laid.arm(stdio, name)
    thread = await project.thread(policy)
    command = f"cd {armed.folder} && {' '.join(armed.argv)}"
    await project.run(thread, f'mock:exec cmd="{command}"; mock:text n=1')
    await eventually(armed.results.exists)
    still = (await project.call("listApprovals"))["approvals"]
    pending = [one["approvalId"] for one in still] == [approval["approvalId"]]
    await project.answer(approval, "decline")
    assert await project.ended(asking) == "completed"
    done = (rig.project_dir / f"approved-{name}").exists()
    status = await project.ready()
    assert (status["generation"], status["restarts"]) == (1, 0)
    made = _siege(laid, armed.found(), paths.stdout)
    answered = "it was answered" if done or not pending else "it waited"
    return Siege(made.results, made.reached, forged=made.forged, answered=answered)
