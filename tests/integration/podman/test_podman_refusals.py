"""What podman cannot or will not do: a named error in time, and nothing half made stays."""

from pathlib import Path

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.runtimes.spec import container_name
from tests.containers import Boxes
from tests.contract.scripted import Scripts, carriers, soon

SLEEPER = "echo up; exec sleep 600"


async def test_a_missing_image_is_named(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    boxes.change(image="localhost/no-such-image:1")
    with pytest.raises(SupervisorError, match="no-such-image:1: image not known") as caught:
        await runtime.start(scripts.launch(SLEEPER))
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert "images/agent/build" in caught.value.hint
    assert boxes.files() == []


async def test_a_name_that_is_taken_is_said_and_its_owner_spared(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    name = container_name(scripts.marker)
    boxes.podman.ask("create", "--name", name, "--network", "none", boxes.settings.image, "true")
    try:
        with pytest.raises(SupervisorError, match="already in use"):
            await runtime.start(scripts.launch(SLEEPER))
        assert boxes.podman.state(name).status == "created"
    finally:
        boxes.podman.remove(name)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("exec sleep 600", "did not answer within 1 s"),
        ("echo '[{\"Id\":'; exit 0", "ended at once: it failed without a word"),
        ("echo 'Error: the disk is full' >&2; exit 125", "ended at once: the disk is full"),
        ("kill -9 $$", "ended at once"),
    ],
    ids=["hangs", "answers-in-part", "refuses", "is-killed"],
)
async def test_a_podman_that_fails_is_an_error_in_time_and_nothing_is_left(
    boxes: Boxes, scripts: Scripts, tmp_path: Path, told: str, message: str
) -> None:
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{told}\n")
    program.chmod(0o755)
    boxes.podman.close()  # a service that runs would answer all the same
    runtime = boxes.runtime(program=str(program), patience=1)
    with pytest.raises(SupervisorError, match=message) as caught:
        await soon(runtime.markers(scripts.marker))
    with pytest.raises(SupervisorError):
        await soon(runtime.start(scripts.launch(SLEEPER)))
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert carriers(scripts.marker) == set()


async def test_without_podman_the_error_says_what_to_install(
    boxes: Boxes, scripts: Scripts
) -> None:
    runtime = boxes.runtime(program="/nowhere/podman")
    with pytest.raises(SupervisorError, match="/nowhere/podman") as caught:
        await runtime.start(scripts.launch(SLEEPER))
    assert "Install podman" in caught.value.hint
    assert not caught.value.retryable
