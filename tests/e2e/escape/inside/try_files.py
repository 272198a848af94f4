"""Ways to files that are not the agent's: the host's, a sibling's, the supervisor's, Codex's."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.e2e.escape.inside import calls
from tests.e2e.escape.inside.attempting import (
    PLAIN,
    PRIVILEGED,
    Facts,
    RefusedError,
    attempt,
    first_through,
)


def _contents(facts: Facts, path: str) -> str:
    """A file that can be opened for reading; what it says must be what the host put there."""
    content = Path(path).read_bytes()
    if path.endswith(tuple(facts["marked"])) and facts["canary"].encode() not in content:
        raise LookupError(f"{path} is another file: {content[:80]!r}")
    return f"{path} has {len(content)} bytes"


def _secret(facts: Facts, name: str) -> str:
    """Whatever the host keeps under that name, straight or through the root of a process."""
    paths = facts["secrets"][name]
    roots = ["", "/proc/1/root", "/proc/self/root", *_roots()]
    return first_through(
        (root + path, lambda path=path, root=root: _contents(facts, root + path))
        for path in paths
        for root in roots
    )


def _roots() -> list[str]:
    return [f"/proc/{pid}/root" for pid in calls.names("/proc") if pid.isdigit()]


# -- the host's


@attempt(PLAIN)
def read_a_host_file_beside_the_project(facts: Facts) -> str:
    return _contents(facts, facts["secrets"]["beside"][0])


@attempt(PLAIN)
def read_a_host_file_through_a_symlink_in_the_project(facts: Facts) -> str:
    link = Path(facts["project"], "a-link-out")
    link.unlink(missing_ok=True)
    link.symlink_to(facts["secrets"]["beside"][0])
    try:
        _contents(facts, str(link))
        return f"{link} leads out"
    finally:
        link.unlink()


@attempt(PLAIN)
def climb_out_of_the_project_with_dot_dot(facts: Facts) -> str:
    target = facts["secrets"]["beside"][0].lstrip("/")
    at = os.open(facts["project"], os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(64):
        at = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
    content = os.read(os.open(target, os.O_RDONLY, dir_fd=at), 4096)
    return f"{len(content)} bytes of {target} above the project"


@attempt(PLAIN)
def read_a_host_file_through_the_root_of_any_process(facts: Facts) -> str:
    beside = facts["secrets"]["beside"][0]
    return first_through(
        (root, lambda root=root: _contents(facts, root + beside)) for root in _roots()
    )


@attempt(PLAIN)
def read_a_host_file_through_the_cwd_of_any_process(facts: Facts) -> str:
    ups = "/.." * 64

    def way(pid: str) -> Callable[[], str]:
        return lambda: _contents(facts, f"/proc/{pid}/cwd{ups}{facts['secrets']['beside'][0]}")

    return first_through((pid, way(pid)) for pid in calls.names("/proc") if pid.isdigit())


@attempt(PLAIN)
def use_a_descriptor_that_leads_out(facts: Facts) -> str:
    """One of the OCI runtime's that it forgot, or one that was handed on."""
    beside = facts["secrets"]["beside"][0].lstrip("/")

    def way(fd: int) -> Callable[[], str]:
        def climb() -> str:
            for depth in range(24):
                try:
                    os.close(os.open("../" * depth + beside, os.O_RDONLY, dir_fd=fd))
                    return f"{depth} above it is the host's root"
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                        raise
            raise RefusedError("nothing of the host above it")

        return climb

    given = [int(fd) for fd in calls.names("/proc/self/fd")]
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    return first_through((f"fd {fd}", way(fd)) for fd in {*given, root} if _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- a sibling's


@attempt(PLAIN)
def read_a_file_of_a_sibling_project(facts: Facts) -> str:
    return _secret(facts, "sibling")


@attempt(PLAIN)
def write_into_a_sibling_project(facts: Facts) -> str:
    planted = Path(facts["sibling"], "planted-by-a-sibling")
    planted.write_text("here I was\n")
    planted.unlink()
    return f"{planted} could be written"


@attempt(PLAIN)
def read_the_state_of_another_project(facts: Facts) -> str:
    return _secret(facts, "other state")


# -- the supervisor's


@attempt(PLAIN)
def read_the_spool(facts: Facts) -> str:
    return _secret(facts, "stdout")


@attempt(PLAIN)
def write_into_the_pipe_to_the_app_server(facts: Facts) -> str:
    """By its name; through /proc it is tried elsewhere."""
    path = facts["secrets"]["stdin"][0]
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return f"{path} opened for writing"


@attempt(PLAIN)
def read_the_store_and_the_audit_in_it(facts: Facts) -> str:
    return _secret(facts, "store")


@attempt(PLAIN)
def change_the_store_and_the_audit_in_it(facts: Facts) -> str:
    def way(path: str) -> Callable[[], str]:
        def opened() -> str:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
            return "opened for writing"

        return opened

    return first_through((path, way(path)) for path in facts["secrets"]["store"])


@attempt(PLAIN)
def read_the_token_of_the_supervisor(facts: Facts) -> str:
    return _secret(facts, "token")


@attempt(PLAIN)
def read_the_credential(facts: Facts) -> str:
    return _secret(facts, "credential")


@attempt(PLAIN)
def talk_to_the_socket_of_the_supervisor(facts: Facts) -> str:
    return _connected(facts["sockets"]["supervisor"])


@attempt(PLAIN)
def talk_to_the_socket_of_the_proxy(facts: Facts) -> str:
    return _connected(facts["sockets"]["proxy"])


@attempt(PLAIN)
def talk_to_a_container_engine(facts: Facts) -> str:
    usual = ["podman/podman.sock", "docker.sock", "containerd/containerd.sock", "crio/crio.sock"]
    usual += [f"user/{os.getuid()}/podman/podman.sock", "systemd/private", "dbus/system_bus_socket"]
    paths = [f"/{run}/{name}" for run in ("run", "var/run") for name in usual]
    paths += facts["sockets"]["engine"]
    return first_through((p, lambda p=p: _connected([p])) for p in paths)


def _connected(paths: list[str]) -> str:
    def way(path: str, kind: int) -> Callable[[], str]:
        def connect() -> str:
            with socket.socket(socket.AF_UNIX, kind) as one:
                one.connect(path)
            return "connected"

        return connect

    kinds = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    return first_through((path, way(path, kind)) for path in paths for kind in kinds)


# -- Codex's, and the image's


@attempt(PLAIN)
def read_the_binary_of_codex_or_of_the_init(facts: Facts) -> str:
    """What can be read can be looked into when it runs."""
    return first_through(
        (path, lambda path=path: f"{len(Path(path).read_bytes())} bytes")
        for path in ("/opt/codex/bin/codex", "/run/podman-init", "/proc/1/exe")
    )


def _tampered(path: str) -> str:
    """Whether it can be opened for writing, renamed or given another mode; all is undone."""

    def written() -> str:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        return "opened for writing"

    def renamed() -> str:
        Path(path).rename(f"{path}.moved")
        Path(f"{path}.moved").rename(path)
        return "renamed"

    def changed() -> str:
        Path(path).chmod(Path(path).stat().st_mode & 0o7777)
        return "its mode set"

    def beside() -> str:
        other = Path(path).parent / "a-file-beside-it"
        other.touch(exist_ok=False)
        other.unlink()
        return "a file made beside it"

    ways = (("open", written), ("rename", renamed), ("chmod", changed), ("beside", beside))
    return first_through(ways, walls=[errno.ETXTBSY, errno.EBUSY, errno.EISDIR])


@attempt(PRIVILEGED)
def change_the_folder_of_codex(facts: Facts) -> str:
    return first_through(
        (path, lambda path=path: _tampered(path))
        for path in ("/opt/codex/bin/codex", "/opt/codex/bin", "/opt/codex")
    )


@attempt(PRIVILEGED)
def change_what_codex_is_held_to(facts: Facts) -> str:
    return first_through(
        (path, lambda path=path: _tampered(path))
        for path in ("/etc/codex/requirements.toml", "/etc/codex/config.toml", "/etc/codex")
    )


@attempt(unshown="podman mounts the init read-only in every container")
def change_the_init(facts: Facts) -> str:
    return _tampered("/run/podman-init")


@attempt(PRIVILEGED)
def change_names_and_resolvers(facts: Facts) -> str:
    return first_through(
        (path, lambda path=path: _tampered(path))
        for path in ("/etc/passwd", "/etc/resolv.conf", "/etc/hostname", "/etc/ld.so.preload")
    )


@attempt(PLAIN)
def write_somewhere_on_the_root(facts: Facts) -> str:
    def way(folder: str) -> Callable[[], str]:
        def write() -> str:
            made = Path(folder, "written-by-the-agent")
            made.touch()
            made.unlink()
            return "written"

        return write

    root = os.lstat("/usr").st_dev
    folders = []
    for folder, inner, _ in os.walk("/"):
        inner[:] = [name for name in inner if _is_of(root, f"{folder}/{name}")]
        folders.append(folder)
    return first_through((folder, way(folder)) for folder in folders)


def _is_of(device: int, path: str) -> bool:
    try:
        return os.lstat(path).st_dev == device
    except OSError:
        return False
