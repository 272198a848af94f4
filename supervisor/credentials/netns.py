"""Listening sockets inside another process's network namespace, held outside of it.

A socket belongs to the namespace it was made in, whoever holds it. Blocking; call it in a thread.
"""

import contextlib
import ctypes
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supervisor.credentials import netns_join
from supervisor.errors import ErrorCode, SupervisorError

SECONDS: Final = 10.0
"""For all of it. A thread of ours takes half a millisecond, a process of ours 25."""
_OWN: Final = Path("/proc/self/ns/net")


def open_container(pid: int, start_ticks: int = 0) -> int:
    """A pidfd of the container's init, for whoever closes it.

    `start_ticks` proves that the pid was not taken by another process since; 0 leaves that to the
    caller. `model_unreachable` if it is gone.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        raise _gone(pid) from error
    if start_ticks and _start_ticks(pid) != start_ticks:
        os.close(pidfd)
        raise _gone(pid)
    return pidfd


def listen_inside(pid: int, pidfd: int, ports: Sequence[int]) -> list[socket.socket]:
    """Sockets that listen on these ports of 127.0.0.1 in the network namespace of process `pid`,
    which is the one behind `pidfd`.

    `model_unreachable` if it has ended or is in our own namespace, if we may not, or if somebody
    inside has a port already.
    """
    with contextlib.ExitStack() as files:
        try:
            descriptors = [_opened(files, Path(f"/proc/{pid}/ns/{kind}")) for kind in _KINDS]
            # Only now: had the pid been another's when they were opened, this one had ended.
            if ended(pidfd):
                raise _gone(pid)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise _gone(pid) from error
        except OSError as error:
            raise _refused(f"the network of process {pid} cannot be looked at", error) from error
        user, network = descriptors
        if os.path.samestat(os.fstat(network), _OWN.stat()):
            raise _refused(f"process {pid} is in the proxy's own network namespace")
        return _listening(user, network, ports)


_KINDS = ("user", "net")


def ended(pidfd: int) -> bool:
    """Whether the process behind it has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _listening(user: int, network: int, ports: Sequence[int]) -> list[socket.socket]:
    try:
        return _in_thread(network, ports)
    except PermissionError:
        # Not root: whoever made the user namespace of the container has all rights in it.
        return _in_process(user, network, ports)
    except OSError as error:
        raise _refused("no port can be had inside of the container", error) from error


def _in_thread(network: int, ports: Sequence[int]) -> list[socket.socket]:
    """The namespace is the thread's own; the thread ends at once, and is never another's."""
    made: list[socket.socket] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _join(network)
            made.extend(netns_join.listeners(ports))
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            failed.append(error)

    # A daemon: were the kernel to keep it, this process could end all the same.
    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if failed:
        raise failed[0]
    if not made:
        raise TimeoutError("the kernel does not let a thread into the namespace")
    return made


def _join(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, netns_join.CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_process(user: int, network: int, ports: Sequence[int]) -> list[socket.socket]:
    """A process with one thread: only such a one may change its user namespace."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        numbers = [str(number) for number in (theirs.fileno(), user, network, *ports)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", netns_join.__file__, *numbers],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), user, network),
            env={},
        )
        theirs.close()
        ours.settimeout(SECONDS)
        try:
            said, found, _, _ = socket.recv_fds(ours, 512, len(ports))
        except OSError as error:
            raise _refused("nothing came from inside of the container", error) from error
        finally:
            process.kill()
            process.wait()
    sockets = [socket.socket(fileno=number) for number in found]
    if len(sockets) == len(ports):
        return sockets
    for each in sockets:
        each.close()
    raise _refused(f"no port can be had inside of the container: {said.decode(errors='replace')}")


def _opened(files: contextlib.ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    files.callback(os.close, descriptor)
    return descriptor


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat; -1 if there is none."""
    try:
        # The name before it may hold spaces and brackets.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1


def _gone(pid: int) -> SupervisorError:
    return SupervisorError(ErrorCode.MODEL_UNREACHABLE, f"the container of process {pid} has ended")


def _refused(what: str, error: OSError | None = None) -> SupervisorError:
    why = f": {error.strerror or error}" if error else ""
    return SupervisorError(ErrorCode.MODEL_UNREACHABLE, what + why)
