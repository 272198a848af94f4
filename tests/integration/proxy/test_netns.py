"""Listeners in another network namespace."""

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from supervisor.credentials.netns import listen_inside, open_container
from supervisor.errors import ErrorCode, SupervisorError
from tests.conftest import require
from tests.contract.scripted import until
from tests.integration.proxy.boxes import (
    STRANGER,
    UP,
    box,
    connect_inside,
    listens,
    run_as_stranger,
    strangers_python,
)

PORTS = (8181, 8182)
ROOT = Path(__file__).parents[3]

ROOTLESS = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from supervisor.credentials.netns import listen_inside, open_container
up = sys.argv[2]
argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", up]
with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
    try:
        assert process.stdout.readline() == b"up\\n"
        pidfd = open_container(process.pid)
        sockets = listen_inside(process.pid, pidfd, (8181, 8182))
        inside = open(f"/proc/{process.pid}/net/tcp").read()
        outside = open("/proc/self/net/tcp").read()
        ports = [each.getsockname()[1] for each in sockets]
        print(os.geteuid(), ports, inside.count("0100007F:1FF"), "0100007F:1FF5" in outside)
    finally:
        process.kill()
"""


def refused(pid: int, pidfd: int, ports: tuple[int, ...] = PORTS) -> str:
    with pytest.raises(SupervisorError) as raised:
        listen_inside(pid, pidfd, ports)
    assert raised.value.code is ErrorCode.MODEL_UNREACHABLE
    return raised.value.message


def namespaces() -> set[Path]:
    """Of all our threads."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.add((task / "ns/net").readlink())
    return found


def test_a_listener_is_inside_and_its_descriptor_outside() -> None:
    with box() as process:
        pidfd = open_container(process.pid)
        model, connect = listen_inside(process.pid, pidfd, PORTS)
        with model, connect, connect_inside(process.pid, 8181) as client:
            model.setblocking(True)
            accepted, _ = model.accept()
            with accepted:
                client.sendall(b"from inside")
                assert accepted.recv(100) == b"from inside"
            assert listens(process.pid, 8182)
            assert not listens(os.getpid(), 8181)
        os.close(pidfd)


async def test_no_thread_of_ours_stays_inside() -> None:
    with box() as process:
        pidfd = open_container(process.pid)
        for each in listen_inside(process.pid, pidfd, PORTS):
            each.close()
        os.close(pidfd)
        # The kernel's end of a thread comes after Python's.
        await until(lambda: namespaces() == {Path("/proc/self/ns/net").readlink()})
        assert "netns" not in [thread.name for thread in threading.enumerate()]


def test_a_port_that_is_taken_inside_is_told_and_the_other_is_free_again() -> None:
    with box() as process:
        pidfd = open_container(process.pid)
        [held] = listen_inside(process.pid, pidfd, (8182,))
        assert "in use" in refused(process.pid, pidfd)
        held.close()
        for each in listen_inside(process.pid, pidfd, PORTS):
            each.close()
        os.close(pidfd)


def test_our_own_namespace_is_never_listened_in() -> None:
    pidfd = open_container(os.getpid())
    assert "own network namespace" in refused(os.getpid(), pidfd)
    os.close(pidfd)


def test_a_container_that_has_ended_is_told_as_such() -> None:
    with subprocess.Popen(["sleep", "600"]) as ended:
        pidfd = open_container(ended.pid)
        ended.kill()
    assert "has ended" in refused(ended.pid, pidfd)
    with pytest.raises(SupervisorError, match="has ended"):
        open_container(ended.pid)
    with box() as process:
        # As if its pid were now another's.
        assert "has ended" in refused(process.pid, pidfd)
        assert not listens(process.pid, 8181)
        with pytest.raises(SupervisorError, match="has ended"):
            open_container(process.pid, start_ticks=1)
    os.close(pidfd)


def test_without_root_a_process_of_ours_joins_the_users_own_namespace() -> None:
    able = run_as_stranger(
        *("unshare", "--user", "--map-root-user", "--net", "ip", "link", "set", "lo", "up")
    )
    require(able.returncode == 0, "user namespaces for everybody")
    done = run_as_stranger(strangers_python(), "-I", "-c", ROOTLESS, str(ROOT), UP)
    uid = os.geteuid() or STRANGER
    assert done.stdout == f"{uid} [8181, 8182] 2 False\n", done.stderr
