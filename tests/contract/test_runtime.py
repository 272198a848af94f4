"""What every runtime promises (supervisor.ports.runtime), over each that there is."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from supervisor.agents.fifo import FifoWriter
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE, Exit, Identity, Runtime
from supervisor.runtimes.cgroups import cgroup_of
from supervisor.runtimes.host import HostRuntime
from supervisor.runtimes.podman import PodmanRuntime
from tests.containers import Boxes, require_podman
from tests.contract.scripted import DAEMON, ECHO, STUBBORN, Scripts, carriers, said, soon, until

OTHER = "contract-of-another"
# What podman and the image set, and what the spec decides whatever the launch says.
OF_CONTAINERS = {
    "podman": {"CODEX_HOME", "HOME", "HOSTNAME", "HTTPS_PROXY", "LANG", "TERM", "container"}
}


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, f"contract-{os.getpid()}-{tmp_path.name}")


@pytest.fixture(params=["host", "podman"])
async def runtime(
    request: pytest.FixtureRequest, scripts: Scripts, tmp_path: Path
) -> AsyncIterator[Runtime]:
    made: Runtime
    if request.param == "host":
        made = HostRuntime()
    else:
        made = Boxes(tmp_path, require_podman(tmp_path)).runtime()
    yield made
    await made.sweep(scripts.marker)
    # One that sweeps by label finds nothing of a start that is still under way by it.
    assert carriers(scripts.marker) == set()
    if isinstance(made, PodmanRuntime):
        made.close()


def stands_still(identity: Identity) -> bool:
    """Stopped by a signal, or frozen with its cgroup."""
    cgroup = cgroup_of(identity.pid, identity.container)
    stopped = psutil.Process(identity.pid).status() == psutil.STATUS_STOPPED
    return stopped or (cgroup is not None and cgroup.frozen())


async def test_the_app_server_gets_its_directory_and_environment_and_nothing_else(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch("exec env", env={"PATH": "/usr/bin:/bin", "GREETING": "hello"})
    process = await runtime.start(launch)
    assert await soon(process.wait()) == Exit(code=0)
    lines = set(launch.stdout.read_text().splitlines())
    assert {"GREETING=hello", f"{MARKER_VARIABLE}={scripts.marker}"} <= lines
    names = {line.partition("=")[0] for line in lines}
    # The shell sets its own three.
    own = {"PATH", "GREETING", MARKER_VARIABLE, "PWD", "SHLVL", "_", "OLDPWD"}
    assert names <= own | OF_CONTAINERS.get(runtime.name, set())
    assert f"PWD={scripts.project}" in lines


async def test_what_it_says_is_appended_to_the_spool_and_its_complaints_to_stderr(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch("echo out; echo err >&2")
    launch.stdout.write_bytes(b"before\n")
    process = await runtime.start(launch)
    await soon(process.wait())
    assert launch.stdout.read_bytes() == b"before\nout\n"
    assert launch.stderr.read_bytes() == b"err\n"
    assert launch.stderr.stat().st_mode & 0o777 == 0o600


async def test_its_stdin_never_ends_when_a_writer_goes_away(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    process = await runtime.start(launch)
    for word in (b"one", b"two"):
        writer = FifoWriter(launch.stdin)
        await soon(writer.write_line(word))
        writer.close()
        await said(launch, f"got {word.decode()}\n")
    await process.terminate()
    assert await soon(process.wait()) == Exit(signal=signal.SIGTERM)


async def test_many_may_wait_and_all_learn_how_it_ended(runtime: Runtime, scripts: Scripts) -> None:
    process = await runtime.start(scripts.launch("exit 3"))
    exits = await soon(asyncio.gather(*(process.wait() for _ in range(5))))
    assert exits == [Exit(code=3)] * 5
    assert await soon(process.wait()) == Exit(code=3)


async def test_one_who_stops_waiting_does_not_disturb_the_others(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    process = await runtime.start(launch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await process.wait()
    await process.terminate()
    assert await soon(process.wait()) == Exit(signal=signal.SIGTERM)


async def test_everything_is_harmless_after_the_end(runtime: Runtime, scripts: Scripts) -> None:
    process = await runtime.start(scripts.launch("exit 0"))
    await soon(process.wait())
    await process.terminate()
    await process.pause()
    await process.unpause()
    assert await soon(process.kill_tree()) == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"argv": []}, ErrorCode.AGENT_START_FAILED),
        ({"argv": ["/bin/sh", "a\0b"]}, ErrorCode.AGENT_START_FAILED),
        ({"directory": Path("/nowhere")}, ErrorCode.AGENT_START_FAILED),
        ({"stdin": Path("/nowhere/stdin")}, ErrorCode.AGENT_START_FAILED),
        ({"stdin": Path("/etc/hosts")}, ErrorCode.AGENT_START_FAILED),
        ({"stdout": Path("/nowhere/stdout")}, ErrorCode.AGENT_START_FAILED),
    ],
)
async def test_a_start_that_cannot_be_says_why_and_leaves_nothing(
    runtime: Runtime, scripts: Scripts, changes: dict[str, object], code: ErrorCode
) -> None:
    launch = scripts.launch("exec sleep 600", **changes)
    with pytest.raises(SupervisorError) as caught:
        await runtime.start(launch)
    assert caught.value.code is code
    assert carriers(scripts.marker) == set()


async def test_one_that_ignores_the_request_to_end_is_killed(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch(STUBBORN)
    process = await runtime.start(launch)
    await said(launch, "up")
    await process.terminate()
    assert await soon(process.kill_tree()) == 2
    assert await soon(process.wait()) == Exit(signal=signal.SIGKILL)
    assert carriers(scripts.marker) == set()


async def test_a_command_that_left_its_session_and_its_parents_is_killed_too(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch(DAEMON)
    process = await runtime.start(launch)
    await said(launch, "up")
    assert await soon(process.kill_tree()) == 2
    assert carriers(scripts.marker) == set()


async def test_no_command_outlives_its_app_server_and_the_kill_after_its_end(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch("sleep 600 & echo up")
    process = await runtime.start(launch)
    assert await soon(process.wait()) == Exit(code=0)
    await said(launch, "up")
    await soon(process.kill_tree())
    assert carriers(scripts.marker) == set()


async def test_a_paused_one_runs_no_more_until_unpaused(runtime: Runtime, scripts: Scripts) -> None:
    launch = scripts.launch(ECHO)
    process = await runtime.start(launch)
    await said(launch, "up")
    await process.pause()
    await until(lambda: stands_still(process.identity))
    writer = FifoWriter(launch.stdin)
    await soon(writer.write_line(b"late"))
    assert b"got" not in launch.stdout.read_bytes()
    await process.unpause()
    await said(launch, "got late")
    writer.close()
    await process.kill_tree()


async def test_a_paused_one_ends_when_asked_to(runtime: Runtime, scripts: Scripts) -> None:
    process = await runtime.start(scripts.launch("exec sleep 600"))
    await process.pause()
    await process.terminate()
    assert await soon(process.wait()) == Exit(signal=signal.SIGTERM)


async def test_an_adopted_process_is_the_same_one_and_its_end_is_seen(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    first = await runtime.start(launch)
    adopted = await runtime.adopt(launch, first.identity)
    assert adopted is not None
    assert adopted.identity == first.identity
    await adopted.terminate()
    await soon(adopted.wait())
    assert await soon(first.wait()) == Exit(signal=signal.SIGTERM)


async def test_what_is_not_the_recorded_process_is_not_adopted(
    runtime: Runtime, scripts: Scripts
) -> None:
    launch = scripts.launch("exec sleep 600")
    process = await runtime.start(launch)
    real = process.identity
    reused = msgspec.structs.replace(real, start_ticks=real.start_ticks + 1)
    rebooted = msgspec.structs.replace(real, boot_id="00000000-0000-0000-0000-000000000000")
    stranger = msgspec.structs.replace(launch, marker=OTHER)
    assert await runtime.adopt(launch, reused) is None
    assert await runtime.adopt(launch, rebooted) is None
    assert await runtime.adopt(stranger, real) is None
    await process.kill_tree()
    await soon(process.wait())
    assert await runtime.adopt(launch, real) is None


async def test_a_sweep_ends_all_that_carry_the_marker_and_nobody_else(
    runtime: Runtime, scripts: Scripts
) -> None:
    mine = scripts.launch(DAEMON)
    # Markers that merely begin alike are another generation's.
    other = scripts.launch(ECHO, marker=f"{scripts.marker}0")
    swept = await runtime.start(mine)
    spared = await runtime.start(other)
    await said(mine, "up")
    await said(other, "up")
    assert await soon(runtime.sweep(scripts.marker)) == 2
    await soon(swept.wait())
    assert spared.identity.pid in carriers(other.marker)
    assert await soon(runtime.sweep(scripts.marker)) == 0
    assert await soon(runtime.sweep(other.marker)) == 1


async def test_markers_are_found_by_how_they_begin(runtime: Runtime, scripts: Scripts) -> None:
    one = scripts.launch("exec sleep 600", marker=f"{scripts.marker}:p:1")
    await runtime.start(one)
    assert await soon(runtime.markers(f"{scripts.marker}:")) == {one.marker}
    assert await soon(runtime.sweep(one.marker)) == 1
    assert await soon(runtime.markers(f"{scripts.marker}:")) == set()


async def test_a_sweep_without_a_marker_is_refused(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="nobody"):
        await runtime.sweep("")
