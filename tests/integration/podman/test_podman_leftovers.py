"""What starts that were cut short, strangers and former lives leave: found, told apart, ended."""

import asyncio
import signal
from pathlib import Path

import pytest

from supervisor.agents.relist import Spared, sweep_once
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.ports.runtime import Exit, Launch
from supervisor.runtimes.host import HostRuntime
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.runtimes.podman_start import noted
from supervisor.runtimes.spec import MARKER_LABEL, Limits, container_name
from tests.containers import Boxes
from tests.contract.scripted import Scripts, carriers, said, soon, until

SLEEPER = "echo up; exec sleep 600"
PROJECT = ProjectId("p")


def created(boxes: Boxes, marker: str, *more: str) -> str:
    """A container that was made and not started, as one whose `podman run` died."""
    name = container_name(marker)
    labels = ["--label", f"{MARKER_LABEL}={marker}"] if marker else []
    argv = ["create", "--name", name, "--network", "none", *labels, *more]
    return boxes.podman.ask(*argv, boxes.settings.image, "sleep", "600").strip()


def generation(scripts: Scripts, number: int, script: str = SLEEPER) -> Launch:
    return scripts.launch(script, marker=f"{scripts.marker}:p:{number}")


async def test_a_look_ends_every_kind_of_orphan_and_spares_the_one_that_runs(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    state = scripts.marker
    live = await runtime.start(generation(scripts, 9))
    over = await runtime.start(generation(scripts, 2, "exit 0"))
    lost = await runtime.start(generation(scripts, 3))
    assert await soon(over.wait()) == Exit(code=0)
    lost.release()
    created(boxes, f"{state}:p:4")
    boxes.podman.ask("init", created(boxes, f"{state}:gone:1"))
    stranger = created(boxes, f"{state}0:p:1")
    files = boxes.run_dir / container_name(f"{state}:p:5")
    files.mkdir()
    (files / "marker").write_text(f"{state}:p:5")
    expected = {f"{state}:p:{n}" for n in (2, 3, 4, 5, 9)} | {f"{state}:gone:1"}
    try:
        assert await soon(runtime.markers(f"{state}:")) == expected
        await soon(sweep_once(runtime, state, lambda: [Spared(PROJECT, f"{state}:p:9")]))
        assert await soon(runtime.markers(f"{state}:")) == {f"{state}:p:9"}
        assert boxes.podman.state(live.identity.container).status == "running"
        assert boxes.podman.state(stranger).status == "created"
    finally:
        boxes.podman.remove(stranger)
    assert await soon(live.kill_tree()) == 1
    assert boxes.files() == []


async def test_a_name_that_one_of_a_former_life_has_is_taken_over(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    former = created(boxes, scripts.marker)
    launch = scripts.launch(SLEEPER)
    process = await runtime.start(launch)
    await said(launch, "up")
    assert process.identity.container != former
    assert [each.id for each in boxes.of(scripts.marker)] == [process.identity.container]
    await soon(process.kill_tree())


async def test_one_that_was_removed_behind_our_back_has_ended_and_the_next_one_starts(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    first = generation(scripts, 1)
    process = await runtime.start(first)
    await said(first, "up")
    # As a person would.
    await asyncio.to_thread(boxes.podman.ask, "rm", "-f", "-t", "0", process.identity.container)
    assert (await soon(process.wait())).signal in (signal.SIGKILL, None)
    assert await soon(runtime.sweep(first.marker)) == 0
    assert boxes.files() == []
    second = generation(scripts, 2)
    successor = await runtime.start(second)
    await said(second, "up")
    assert await soon(successor.kill_tree()) == 1


async def test_without_podman_a_container_is_ended_all_the_same_and_removed_later(
    boxes: Boxes, runtime: PodmanRuntime, scripts: Scripts, tmp_path: Path
) -> None:
    program = tmp_path / "podman"
    program.symlink_to("/usr/bin/podman")
    fleeting = boxes.runtime(program=str(program))
    launch = scripts.launch(SLEEPER)
    process = await fleeting.start(launch)
    await said(launch, "up")
    boxes.podman.close()
    program.unlink()
    assert await soon(process.kill_tree()) == 1
    assert await soon(process.wait()) == Exit(signal=signal.SIGKILL)
    assert len(boxes.of(scripts.marker)) == 1
    assert await soon(runtime.sweep(scripts.marker)) == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(cpus=0.001), "CPU"),
        (Limits(memory_bytes=1 << 20), "memory"),
    ],
    ids=["cpus", "memory"],
)
async def test_limits_that_podman_or_the_kernel_refuses_are_named(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, limits: Limits, message: str
) -> None:
    boxes.change(limits=limits)
    with pytest.raises(SupervisorError, match=message) as caught:
        await soon(runtime.start(scripts.launch(SLEEPER)))
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert "limit" in caught.value.hint
    await nothing_is_left(boxes, scripts)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ('default_ulimits = ["nofile=9999999999:9999999999"]', "rlimit"),
        ('default_ulimits = ["nofile=many"]', "ulimit"),
        ("default_ulimits = [", "conf"),
    ],
    ids=["too-high", "no-number", "no-toml"],
)
async def test_limits_of_a_containers_conf_that_cannot_be_are_named(
    boxes: Boxes, scripts: Scripts, tmp_path: Path, conf: str, message: str
) -> None:
    file = tmp_path / "bad.conf"
    file.write_text(f'[containers]\n{conf}\n[engine]\nruntime = "runc"\n')
    boxes.variables = {**boxes.variables, "CONTAINERS_CONF": str(file)}
    boxes.run_dir = tmp_path / "bad"
    bad = boxes.runtime()
    with pytest.raises(SupervisorError, match=message) as caught:
        await soon(bad.start(scripts.launch(SLEEPER)))
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert caught.value.hint
    await nothing_is_left(boxes, scripts)
    bad.close()


async def nothing_is_left(boxes: Boxes, scripts: Scripts) -> None:
    assert boxes.of(scripts.marker) == []
    await until(lambda: not carriers(scripts.marker))


async def test_when_the_runtime_is_another_only_containers_are_cleared(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    inside = await runtime.start(generation(scripts, 1))
    host = HostRuntime()
    outside = await host.start(generation(scripts, 2))
    assert noted(boxes.run_dir) == {f"{scripts.marker}:p:1"}
    await soon(runtime.clear(f"{scripts.marker}:"))
    assert await soon(inside.wait()) == Exit(signal=signal.SIGKILL)
    assert boxes.files() == []
    assert noted(boxes.run_dir) == set()
    assert outside.identity.pid in carriers(f"{scripts.marker}:p:2")
    assert await soon(outside.kill_tree()) == 1
