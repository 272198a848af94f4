"""The host runtime with real processes: identity, both event loops, and what is never killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from supervisor.agents.fifo import FifoWriter
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE, Exit, Identity
from supervisor.runtimes.host import HostRuntime
from supervisor.runtimes.pidfd import exit_of_status
from supervisor.runtimes.processes import boot_id, carries_marker, start_ticks, zombie_status
from tests.contract.scripted import ECHO, Scripts, carriers, soon, until

BOOT = "11111111-2222-3333-4444-555555555555"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, f"host-{os.getpid()}-{tmp_path.name}")


@pytest.fixture
async def runtime(scripts: Scripts) -> AsyncIterator[HostRuntime]:
    made = HostRuntime()
    yield made
    await made.sweep(scripts.marker)


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], scenario: Awaitable[None]) -> None:
    async def whole() -> None:
        await scenario

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(whole())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_a_child_is_heard_of_and_collected_under_either_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], scripts: Scripts
) -> None:
    async def scenario() -> None:
        launch = scripts.launch("read -r line; exit $line")
        process = await HostRuntime().start(launch)
        writer = FifoWriter(launch.stdin)
        await writer.write_line(b"7")
        assert await soon(process.wait()) == Exit(code=7)
        writer.close()
        # Collected: not even a zombie has the pid.
        assert not Path(f"/proc/{process.identity.pid}").exists()

    run(loop_factory, scenario())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_an_adopted_stranger_is_heard_of_under_either_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], scripts: Scripts
) -> None:
    async def scenario() -> None:
        launch = scripts.launch("")
        identity = start_as_a_predecessor(launch.marker)
        process = await HostRuntime().adopt(launch, identity)
        assert process is not None
        await process.terminate()
        ended = await soon(process.wait())
        # Before 6.15 the kernel tells only until init has collected it.
        kernel = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
        assert ended == Exit(signal=signal.SIGTERM) or (kernel < (6, 15) and ended == Exit())

    run(loop_factory, scenario())


def start_as_a_predecessor(marker: str) -> Identity:
    """Start it from a process that ends at once, so that it is no child of ours."""
    script = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=2).pid)"
    done = subprocess.run(
        [sys.executable, "-c", script, "sleep", "600"],
        env={"PATH": os.defpath, MARKER_VARIABLE: marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    pid = int(done.stdout)
    ticks = start_ticks(pid)
    assert ticks is not None
    return Identity(pid=pid, start_ticks=ticks, boot_id=boot_id())


async def test_the_app_server_is_in_a_session_and_a_group_of_its_own(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    process = await runtime.start(scripts.launch("exec sleep 600"))
    pid = process.identity.pid
    assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
    await process.kill_tree()


async def test_the_app_server_inherits_three_descriptors(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    launch = scripts.launch("exec ls /proc/self/fd")
    process = await runtime.start(launch)
    await soon(process.wait())
    # The fourth is the listing's own.
    assert launch.stdout.read_text().split() == ["0", "1", "2", "3"]


async def test_the_identity_is_what_the_kernel_says(runtime: HostRuntime, scripts: Scripts) -> None:
    process = await runtime.start(scripts.launch("exec sleep 600"))
    identity = process.identity
    hertz = os.sysconf("SC_CLK_TCK")
    started = psutil.Process(identity.pid).create_time() - psutil.boot_time()
    assert abs(identity.start_ticks / hertz - started) < 2
    assert identity.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    await process.kill_tree()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["/nowhere/codex", "app-server"], ErrorCode.CODEX_MISSING),
        (["no-such-codex"], ErrorCode.CODEX_MISSING),
        (["/etc/passwd"], ErrorCode.AGENT_START_FAILED),
    ],
)
async def test_a_program_that_cannot_be_run_is_named_and_leaves_nothing(
    runtime: HostRuntime, scripts: Scripts, argv: list[str], code: ErrorCode
) -> None:
    with pytest.raises(SupervisorError) as caught:
        await runtime.start(scripts.launch("", argv=argv))
    assert caught.value.code is code
    assert argv[0] in caught.value.message
    assert carriers(scripts.marker) == set()


async def test_commands_that_outlive_their_app_server_are_counted_when_they_are_killed(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    process = await runtime.start(scripts.launch("sleep 600 & echo up"))
    assert await soon(process.wait()) == Exit(code=0)
    assert len(carriers(scripts.marker)) == 1
    assert await soon(process.kill_tree()) == 1
    assert carriers(scripts.marker) == set()


async def test_one_that_was_just_started_is_known_by_its_marker(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    # The kernel shows no environment for a moment after the exec that Popen waits for.
    for _ in range(200):
        process = await runtime.start(scripts.launch("", argv=["/bin/sleep", "600"]))
        assert carries_marker(process.identity.pid, scripts.marker)
        await process.kill_tree()


async def test_a_command_with_an_empty_environment_dies_with_its_parents(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    launch = scripts.launch("setsid env -i sleep 600 & echo $!; wait")
    process = await runtime.start(launch)
    await until(lambda: launch.stdout.read_bytes().endswith(b"\n"))
    child = psutil.Process(int(launch.stdout.read_text()))
    await until(lambda: child.environ() == {})
    assert await soon(process.kill_tree()) == 2
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a_process_that_breeds_while_it_is_killed_is_ended_whole(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    breeder = "while :; do (setsid sleep 600 &); sleep 0.01; done"
    launch = scripts.launch(
        f"(setsid sh -c '{breeder}' &); (setsid sh -c '{breeder}' &); sleep 600"
    )
    process = await runtime.start(launch)
    await until(lambda: len(carriers(scripts.marker)) > 10)
    assert await soon(process.kill_tree()) > 10
    assert carriers(scripts.marker) == set()


async def test_one_that_left_the_marker_in_our_own_environment_does_not_kill_us(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    # A supervisor started by a command of an agent carries that agent's marker.
    sweeper = (
        "import sys; from supervisor.runtimes.processes import Reaper; "
        "print('killed', Reaper(sys.argv[1]).run(), flush=True)"
    )
    launch = scripts.launch(
        "",
        argv=["/bin/sh", "-c", f'{sys.executable} -c "{sweeper}" {scripts.marker}; echo alive'],
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    process = await runtime.start(launch)
    assert await soon(process.wait()) == Exit(code=0)
    assert launch.stdout.read_text() == "killed 0\nalive\n"


def test_a_cancelled_start_leaves_no_process(scripts: Scripts) -> None:
    launch = scripts.launch("exec sleep 600")

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await HostRuntime().start(launch)

    # The end of the loop waits for the thread that starts the process.
    run(asyncio.new_event_loop, scenario())
    assert launch.stdout.exists()
    assert carriers(scripts.marker) == set()


async def test_a_released_process_goes_on_and_can_be_adopted(
    runtime: HostRuntime, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    first = await runtime.start(launch)
    first.release()
    first.release()
    second = await runtime.adopt(launch, first.identity)
    assert second is not None
    await second.kill_tree()
    await soon(second.wait())


def fake_process(root: Path, stat: bytes, environ: bytes = b"") -> None:
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
    (root / "42").mkdir()
    (root / "42" / "stat").write_bytes(stat)
    (root / "42" / "environ").write_bytes(environ)


def stat_line(name: bytes, state: bytes = b"S") -> bytes:
    return b"42 (%s) %s " % (name, state) + b" ".join(b"%d" % n for n in range(4, 53)) + b"\n"


@pytest.mark.parametrize("name", [b"sh", b"a b", b") Z 1 (", b"\xff)", b"x) S 9 9 9 9 9 9"])
def test_a_name_chosen_to_confuse_does_not_change_the_start_time(
    tmp_path: Path, name: bytes
) -> None:
    fake_process(tmp_path, stat_line(name))
    assert start_ticks(42, tmp_path) == 22
    assert boot_id(tmp_path) == BOOT


def test_a_zombie_is_no_live_process(tmp_path: Path) -> None:
    fake_process(tmp_path, stat_line(b"sh", b"Z"))
    assert start_ticks(42, tmp_path) is None
    assert start_ticks(42, tmp_path, ended=True) == 22
    assert start_ticks(43, tmp_path) is None


def test_a_zombie_tells_how_it_ended_and_a_live_process_or_another_does_not(
    tmp_path: Path,
) -> None:
    fake_process(tmp_path / "dead", stat_line(b"sh", b"Z"))
    fake_process(tmp_path / "live", stat_line(b"sh", b"S"))
    assert zombie_status(42, 22, tmp_path / "dead") == 52
    assert zombie_status(42, 23, tmp_path / "dead") is None
    assert zombie_status(42, 22, tmp_path / "live") is None
    assert zombie_status(43, 22, tmp_path / "dead") is None


def test_a_marker_is_matched_whole(tmp_path: Path) -> None:
    fake_process(tmp_path, b"", b"A=1\0" + f"{MARKER_VARIABLE}=m-1\0B=2\0".encode())
    assert carries_marker(42, "m-1", tmp_path) is True
    assert carries_marker(42, "m-", tmp_path) is False
    assert carries_marker(42, "m-11", tmp_path) is False
    assert carries_marker(43, "m-1", tmp_path) is False


def test_a_wait_status_is_read_as_the_kernel_means_it() -> None:
    assert exit_of_status(0) == Exit(code=0)
    assert exit_of_status(3 << 8) == Exit(code=3)
    assert exit_of_status(signal.SIGKILL) == Exit(signal=signal.SIGKILL)
    # With a core dumped.
    assert exit_of_status(signal.SIGSEGV | 0x80) == Exit(signal=signal.SIGSEGV)
