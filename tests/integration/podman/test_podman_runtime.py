"""The podman runtime with real containers: what is started, how it ended, and what is left."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import codex_cli_bin
import psutil
import pytest

from supervisor.agents.fifo import FifoWriter
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE, Confinement, Exit, Launch
from supervisor.runtimes.copies import codex_copy
from supervisor.runtimes.podman import PodmanProcess, PodmanRuntime
from supervisor.runtimes.podman_exit import exit_of
from supervisor.runtimes.podman_start import start_container
from supervisor.runtimes.spec import CODEX_BINARY, ExtraMount, Limits, container_name, run_argv
from supervisor.runtimes.stdio import opened
from tests.containers import LIMITS, OWNER, Boxes, keepers, named
from tests.contract.scripted import ECHO, Scripts, carriers, said, soon, until

# Takes memory until it is killed for it; python3 is in the image.
GREEDY = "python3 -c 'x = bytearray(1 << 32)'"
GREEDY_COMMAND = f"{GREEDY}; echo died $?"
SLEEPER = "echo up; exec sleep 600"


async def ask(writer: FifoWriter, launch: Launch, method: str, params: object) -> dict[str, object]:
    """Codex's result; the method is the id."""
    await writer.write_line(json.dumps({"id": method, "method": method, "params": params}).encode())
    await said(launch, f'"id":"{method}"')
    lines = [json.loads(line) for line in launch.stdout.read_text().splitlines()]
    result: dict[str, object] = next(line for line in lines if line.get("id") == method)["result"]
    return result


# -- what is started


@pytest.mark.codex
async def test_codex_answers_from_a_container_through_fifo_and_spool(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    boxes.change(codex_folder=codex_copy(codex_cli_bin.bundled_codex_path(), tmp_path / "copies"))
    launch = scripts.launch("", argv=[str(CODEX_BINARY), "app-server"])
    process = await runtime.start(launch)
    writer = FifoWriter(launch.stdin)
    client = {"name": "test", "title": "test", "version": "1"}
    hello = await ask(writer, launch, "initialize", {"clientInfo": client})
    assert hello["codexHome"] == "/codex"
    assert await ask(writer, launch, "thread/loaded/list", {}) == {"data": [], "nextCursor": None}
    await process.terminate()
    assert await soon(process.wait()) == Exit(code=0)
    writer.close()
    assert await soon(process.kill_tree()) == 0


async def test_the_stdio_is_ours_again_and_nobody_inside_can_open_it(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    # The app-server of this test, sh, is readable and so can be looked into; the init cannot.
    launch = scripts.launch("cat /proc/1/environ; echo {} >/proc/1/fd/1; ls /proc/1/fd; echo done")
    process = await runtime.start(launch)
    for path in (launch.stdin, launch.stdout, launch.stderr):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert status.st_mode & 0o777 == 0o600
    assert await soon(process.wait()) == Exit(code=0)
    assert launch.stdout.read_text() == "done\n"
    assert launch.stderr.read_text().count("ermission denied") == 3


async def test_it_runs_as_the_owner_without_rights_or_network_or_a_writable_root(
    runtime: PodmanRuntime, scripts: Scripts
) -> None:
    launch = scripts.launch(
        "id -u; id -g; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; "
        "ls /sys/class/net; touch /x || echo read-only; touch file && echo wrote"
    )
    process = await runtime.start(launch)
    assert await soon(process.wait()) == Exit(code=0)
    lines = launch.stdout.read_text().split("\n")
    assert lines[:2] == [str(OWNER)] * 2
    assert lines[2:6] == [
        *("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"),
        *("NoNewPrivs:\t1", "Seccomp:\t2"),
    ]
    assert lines[6:] == ["lo", "read-only", "wrote", ""]
    assert (launch.directory / "file").stat().st_uid == OWNER


async def test_its_limits_hold_and_its_use_is_read_from_its_cgroup(
    runtime: PodmanRuntime, scripts: Scripts
) -> None:
    launch = scripts.launch(SLEEPER)
    process = await runtime.start(launch)
    await said(launch, "up")
    usage = process.usage()
    assert usage is not None
    assert usage.memory_limit_bytes == LIMITS.memory_bytes
    assert usage.pids_limit == LIMITS.pids
    assert usage.pids == 2
    assert 0 < usage.memory_bytes < LIMITS.memory_bytes
    assert usage.oom_kills == 0
    await process.kill_tree()
    assert process.usage() is None


async def test_what_stands_around_it_is_found_and_not_assumed(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    # Its app-server, a shell of the image, can be read: whoever runs in it gets at the stdio.
    launch = scripts.launch(SLEEPER)
    process = await runtime.start(launch)
    assert process.confinement.limits_hold
    assert not process.confinement.stdio_out_of_reach
    (doubt,) = process.confinement.doubts
    assert doubt == "/bin/sh can be read by the agent"
    await process.kill_tree()

    codex = boxes.settings.codex_folder / "bin" / "codex"
    shutil.copy(Path("/bin/sh").resolve(), codex)
    codex.chmod(0o711)
    boxes.change(require_limits=True)
    launch = scripts.launch("", argv=[str(CODEX_BINARY), "-c", SLEEPER])
    process = await runtime.start(launch)
    assert process.confinement == Confinement(
        container=process.identity.container,
        limits_hold=True,
        stdio_out_of_reach=True,
        doubts=(),
    )
    # The settings may be others by then: it is judged by what was asked for at its start.
    boxes.change(limits=Limits(memory_bytes=64 << 20))
    adopted = await boxes.runtime().adopt(launch, process.identity)
    assert adopted is not None
    assert adopted.confinement == process.confinement
    await adopted.kill_tree()


async def test_a_project_of_any_name_is_mounted_where_it_is(
    runtime: PodmanRuntime, scripts: Scripts, tmp_path: Path
) -> None:
    project = tmp_path / 'a,b "c"=é:d e'
    project.mkdir()
    process = await runtime.start(scripts.launch("pwd >here", directory=project))
    assert await soon(process.wait()) == Exit(code=0)
    assert (project / "here").read_text() == f"{project}\n"


async def test_mounts_go_where_the_settings_say_and_are_read_only(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    extra, pinned = tmp_path / "extra", tmp_path / "requirements.toml"
    extra.mkdir(mode=0o777)
    extra.joinpath("said").write_text("extra\n")
    pinned.write_text("# pinned\n")
    boxes.change(
        mount_point=Path("/work"),
        requirements=pinned,
        extra_mounts=[ExtraMount(source=extra, destination=Path("/mnt/extra"))],
    )
    launch = scripts.launch(
        "pwd; cat /mnt/extra/said /etc/codex/requirements.toml; "
        "for f in /mnt/extra/said /etc/codex/requirements.toml /opt/codex/x; do "
        "echo >>$f || echo refused; done"
    )
    process = await runtime.start(launch)
    assert await soon(process.wait()) == Exit(code=0)
    assert launch.stdout.read_text() == "/work\nextra\n# pinned\n" + "refused\n" * 3


# -- how it ended


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 7", Exit(code=7)),
        ("exit 255", Exit(code=255)),
        ("kill -TERM $$", Exit(signal=signal.SIGTERM)),
        ("kill -KILL $$", Exit(signal=signal.SIGKILL)),
        (GREEDY.replace("python3", "exec python3"), Exit(signal=signal.SIGKILL, oom=True)),
        (f"{GREEDY_COMMAND}; exit 3", Exit(code=3)),
    ],
    ids=["code", "large-code", "term", "kill", "oom", "oom-of-a-command"],
)
async def test_how_it_ended_is_told(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, script: str, expected: Exit
) -> None:
    process = await runtime.start(scripts.launch(f"sleep 0.3; {script}"))
    assert await soon(process.wait()) == expected
    # A kernel that tells nothing: podman knows as well, but not of memory.
    told = exit_of(boxes.podman, process.identity.container, -1, expected.oom)
    assert told == expected


async def test_a_kill_after_a_command_ran_out_of_memory_is_no_want_of_memory(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    launch = scripts.launch(f"{GREEDY_COMMAND}; exec sleep 600")
    first = await runtime.start(launch)
    await said(launch, "died 137")
    usage = first.usage()
    assert usage is not None
    assert usage.oom_kills == 1
    # The successor has seen it too, at its first look.
    adopted = await boxes.runtime().adopt(launch, first.identity)
    assert adopted is not None
    os.kill(psutil.Process(first.identity.pid).children()[0].pid, signal.SIGKILL)
    assert await soon(first.wait()) == Exit(signal=signal.SIGKILL)
    assert await soon(adopted.wait()) == Exit(signal=signal.SIGKILL)


async def test_without_its_cgroup_conmon_tells_of_the_want_of_memory(
    boxes: Boxes, runtime: PodmanRuntime, scripts: Scripts
) -> None:
    # Podman takes the cgroup away soon after the end: a busy supervisor comes too late.
    launch = scripts.launch(f"sleep 0.3; exec {GREEDY}")
    os.chown(launch.directory, OWNER, OWNER)
    started = await asyncio.to_thread(
        start_container, boxes.podman, boxes.settings, launch, boxes.run_dir
    )
    files = boxes.run_dir / container_name(launch.marker)
    process = PodmanProcess(boxes.podman, replace(started, cgroup=None), files, lambda: None)
    assert await soon(process.wait()) == Exit(signal=signal.SIGKILL, oom=True)


async def test_one_that_ends_at_once_is_told_of_as_well(
    runtime: PodmanRuntime, scripts: Scripts
) -> None:
    process = await runtime.start(scripts.launch("", argv=["/nowhere/codex"]))
    assert await soon(process.wait()) == Exit(code=1)


async def test_a_container_removed_behind_our_back_has_ended(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    launch = scripts.launch(SLEEPER)
    process = await runtime.start(launch)
    await said(launch, "up")
    await asyncio.to_thread(boxes.podman.remove, process.identity.container)
    exit_ = await soon(process.wait())
    assert exit_ in (Exit(signal=signal.SIGKILL), Exit())
    assert await soon(process.kill_tree()) == 0
    assert await runtime.adopt(launch, process.identity) is None


# -- what is left


async def test_a_released_container_goes_on_and_its_successor_finds_it_by_label(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    first = await runtime.start(launch)
    first.release()
    first.release()
    (boxes.run_dir / container_name(launch.marker) / "cid").unlink()
    os.chown(launch.stdin, OWNER, OWNER)  # killed before it took them back
    adopted = await boxes.runtime().adopt(launch, first.identity)
    assert adopted is not None
    assert adopted.identity == first.identity
    assert launch.stdin.stat().st_uid == os.geteuid()
    writer = FifoWriter(launch.stdin)
    await soon(writer.write_line(b"word"))
    await said(launch, "got word")
    writer.close()
    await adopted.terminate()
    assert await soon(adopted.wait()) == Exit(signal=signal.SIGTERM)


async def test_nothing_is_left_of_a_killed_one_paused_or_not(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    for paused in (False, True):
        launch = scripts.launch(SLEEPER)
        process = await runtime.start(launch)
        await said(launch, "up")
        if paused:
            await process.pause()
        assert await soon(process.kill_tree()) == 1
        assert await soon(process.wait()) == Exit(signal=signal.SIGKILL)
        await until(lambda: not keepers(scripts.marker))
        assert boxes.of(scripts.marker) == []
        assert boxes.files() == []


async def test_a_paused_one_is_swept(runtime: PodmanRuntime, scripts: Scripts) -> None:
    launch = scripts.launch(SLEEPER)
    process = await runtime.start(launch)
    await said(launch, "up")
    await process.pause()
    assert await soon(runtime.sweep(scripts.marker)) == 1
    assert await soon(process.wait()) == Exit(signal=signal.SIGKILL)


async def test_without_its_conmon_it_goes_on_and_can_be_ended(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    launch = scripts.launch(ECHO)
    process = await runtime.start(launch)
    conmon = psutil.Process(process.identity.pid).parent()
    assert conmon is not None
    assert conmon.name() == "conmon"
    conmon.kill()
    adopted = await boxes.runtime().adopt(launch, process.identity)
    assert adopted is not None
    writer = FifoWriter(launch.stdin)
    await soon(writer.write_line(b"word"))
    await said(launch, "got word")
    writer.close()
    assert await soon(adopted.kill_tree()) == 1
    await until(lambda: not keepers(scripts.marker))
    assert boxes.of(scripts.marker) == []


def test_a_cancelled_start_leaves_no_container(boxes: Boxes, scripts: Scripts) -> None:
    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await boxes.runtime().start(scripts.launch(SLEEPER))

    with asyncio.Runner() as runner:
        runner.run(cancelled())
    # The end of the loop waits for its threads.
    assert boxes.of(scripts.marker) == []
    assert carriers(scripts.marker) == set()


@pytest.mark.parametrize("milliseconds", [0, 20, 40, 60, 80, 100, 120])
async def test_a_start_cut_short_by_the_death_of_podman_is_swept_whole(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, milliseconds: int
) -> None:
    launch = scripts.launch("exec sleep 600")
    starting = asyncio.get_running_loop().create_task(runtime.start(launch))
    await until(lambda: "podman" in keepers(scripts.marker))
    await asyncio.sleep(milliseconds / 1000)  # a fault at some moment, not a wait for one
    for process, name in named(scripts.marker).items():
        if name == "podman":
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    result = (await asyncio.gather(starting, return_exceptions=True))[0]
    if isinstance(result, PodmanProcess):  # it had ended already
        assert await soon(runtime.sweep(scripts.marker)) == 1
    else:
        assert isinstance(result, SupervisorError)
        assert result.code is ErrorCode.AGENT_START_FAILED
    await until(lambda: not keepers(scripts.marker))
    assert boxes.of(scripts.marker) == []
    assert await runtime.markers(scripts.marker) == set()


async def test_a_start_under_way_is_swept_by_another(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts
) -> None:
    # As of a supervisor that was killed: its `podman run` goes on, and nobody looks after it.
    launch = scripts.launch("exec sleep 600")
    os.chown(launch.directory, OWNER, OWNER)
    files = boxes.run_dir / container_name(launch.marker)
    files.mkdir(parents=True)
    with opened(launch) as stdio:
        orphan = subprocess.Popen(  # noqa: ASYNC220  it is to outlive its starter
            ["podman", *run_argv(boxes.settings, launch, files)],
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            env={**boxes.variables, MARKER_VARIABLE: launch.marker},
            start_new_session=True,
        )
    await until(lambda: "podman" in keepers(scripts.marker))
    assert await soon(runtime.sweep(scripts.marker)) == 1
    await asyncio.to_thread(orphan.wait)
    await until(lambda: not keepers(scripts.marker))
    assert boxes.of(scripts.marker) == []
