"""An adoption takes the container's own files and /proc: podman may be away, settings be others."""

import shutil
from pathlib import Path

from supervisor.ports.runtime import Launch
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.runtimes.podman_kept import Changed, Kept, read_kept
from supervisor.runtimes.spec import CODEX_BINARY, container_name
from tests.containers import LIMITS, Boxes
from tests.contract.scripted import Scripts, said, soon

SLEEPER = "echo up; exec sleep 600"


def sleeper(boxes: Boxes, scripts: Scripts) -> Launch:
    """Of an app-server nobody can look into, as codex."""
    codex = boxes.settings.codex_folder / "bin" / "codex"
    shutil.copy(Path("/bin/sh").resolve(), codex)
    codex.chmod(0o711)
    return scripts.launch("", argv=[str(CODEX_BINARY), "-c", SLEEPER])


async def test_without_podman_it_is_adopted_and_judged_as_before(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    launch = sleeper(boxes, scripts)
    first = await runtime.start(launch)
    await said(launch, "up")
    # Its service ends itself some seconds after the last answer, and would answer until then.
    runtime.close()
    alone = boxes.runtime(program=str(tmp_path / "nowhere"))
    adopted = await alone.adopt(launch, first.identity)
    assert adopted is not None
    assert (adopted.identity, adopted.confinement) == (first.identity, first.confinement)
    assert adopted.outdated == first.outdated == ""
    assert adopted.usage() is not None
    assert adopted.confinement.doubts == ()
    adopted.release()

    (boxes.run_dir / container_name(launch.marker) / "kept.json").unlink()
    adopted = await alone.adopt(launch, first.identity)
    assert adopted is not None
    held = adopted.confinement
    assert (held.limits_hold, held.stdio_out_of_reach) == (False, False)
    assert held.doubts == (f"there is no {tmp_path / 'nowhere'} to run",)
    adopted.release()
    adopted = await runtime.adopt(launch, first.identity)
    assert adopted is not None
    assert adopted.confinement == first.confinement
    assert await soon(adopted.kill_tree()) == 1


async def test_what_has_changed_since_its_start_is_said_of_the_one_adopted(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    compared: list[Kept] = []

    def changed(_: object, kept: Kept) -> Changed:
        compared.append(kept)
        return Changed(outdated="it is old", doubts=("it is pinned otherwise",))

    launch = sleeper(boxes, scripts)
    first = await runtime.start(launch)
    await said(launch, "up")
    later = PodmanRuntime(lambda _: boxes.settings, boxes.run_dir, boxes.variables, changed=changed)
    adopted = await later.adopt(launch, first.identity)
    assert adopted is not None
    assert first.outdated == ""
    assert adopted.outdated == "it is old"
    assert adopted.confinement.doubts == ("it is pinned otherwise",)
    assert compared == [read_kept(boxes.run_dir / container_name(launch.marker))]
    assert (compared[0].limits, compared[0].inside) == (LIMITS, str(launch.directory))
    assert await soon(adopted.kill_tree()) == 1
