"""The host around a container, as far as an attacker wants it: secrets, sockets, a sibling, keys.

Everything is for real and lies below one directory. Whoever gets at it finds the canary.
"""

import ctypes
import json
import os
import secrets
import shutil
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from supervisor.runtimes.spec import Limits
from tests.containers import OWNER
from tests.e2e.escape.inside import calls

INSIDE = Path(__file__).parent / "inside"
SOMEBODY, SOMEBODY6 = "203.0.113.7", "2001:db8::7"
GATEWAYS = ("10.88.0.1", "172.17.0.1", "10.0.2.2", "192.168.127.1", "10.88.0.3")
METADATA = "169.254.169.254"
Results = dict[str, dict[str, str]]
"""By attempt: its `outcome`, and `why`."""
_CAP_DAC_OVERRIDE = 1 << 1
_USER_RING = -4


@dataclass
class Ground:
    """Made by `ground`. The real ones go before those of `secrets` and `sockets`."""

    root: Path
    project: Path
    sibling: Path
    canary: str
    port: int
    abstract: str
    forged: str
    handle: str
    limits: Limits
    secrets: dict[str, list[str]] = field(default_factory=dict)
    sockets: dict[str, list[str]] = field(default_factory=dict)
    reached: Callable[[], list[str]] = list
    """Which of the host's listeners somebody has come to."""

    @property
    def addresses(self) -> list[str]:
        """The host's own, but loopback."""
        found = [a for each in psutil.net_if_addrs().values() for a in each]
        known = {a.address.partition("%")[0] for a in found if a.family in _FAMILIES}
        return sorted(a for a in known if not a.startswith(("127.", "::1", "fe80")))

    def facts(self, stdio: Mapping[str, Path]) -> dict[str, Any]:
        """All of it, for the attacker."""
        identities = {name: _identity(path) for name, path in stdio.items()}
        secrets = {**self.secrets, **{name: [str(path)] for name, path in stdio.items()}}
        return {
            "project": str(self.project),
            "sibling": str(self.sibling),
            "canary": self.canary,
            "marked": [
                path for paths in self.secrets.values() for path in paths if self._marks(path)
            ],
            "secrets": secrets,
            "sockets": self.sockets,
            "stdio": identities,
            "forged": self.forged,
            "port": self.port,
            "abstract": self.abstract,
            "addresses": [*self.addresses, "198.51.100.1"],
            "gateways": list(GATEWAYS),
            "somebody": SOMEBODY,
            "somebody6": SOMEBODY6,
            "setuid": str(self.project / ".planted" / "setuid"),
            "capable": str(self.project / ".planted" / "capable"),
            "roots": str(self.project / ".planted" / "roots"),
            "handle": self.handle,
            "key": "escape-suite",
            "limits": {
                "memory": self.limits.memory_bytes,
                "pids": self.limits.pids,
                "tmp": self.limits.tmp_bytes,
                "shm": self.limits.shm_bytes,
            },
        }

    def _marks(self, path: str) -> bool:
        return Path(path).is_file() and self.canary.encode() in Path(path).read_bytes()

    def arm(self, stdio: Mapping[str, Path], name: str) -> "Armed":
        """Put the attempts into the project."""
        armed = Armed(put_inside(self.project / f".attack-{name}"))
        armed.facts.write_text(json.dumps(self.facts(stdio)))
        return armed


def put_inside(folder: Path) -> Path:
    """Copy what runs inside to a folder of a project, for `python3 -m` there; the folder."""
    where = folder / "tests/e2e/escape/inside"
    shutil.copytree(INSIDE, where, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    return folder


@dataclass(frozen=True)
class Armed:
    """A folder in the project from which the attempts are run."""

    folder: Path

    @property
    def facts(self) -> Path:
        return self.folder / "facts.json"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def argv(self) -> list[str]:
        """What runs them, in that folder."""
        argv = ["python3", "-B", "-m", "tests.e2e.escape.inside"]
        return [*argv, str(self.facts), str(self.results)]

    def found(self) -> Results:
        """What came of them."""
        results: Results = json.loads(self.results.read_text())
        return results


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@contextmanager
def ground(root: Path, project: Path, limits: Limits) -> Iterator[Ground]:
    """Lay it out, open its listeners, and take the key back after."""
    canary = f"canary-{secrets.token_hex(16)}"
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in _on_loopback()]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        name = f"codex-supervisor-escape-{secrets.token_hex(8)}"
        abstract.bind("\0" + name)
        abstract.listen(16)
        made = Ground(
            root=root,
            project=project,
            sibling=root / "sibling",
            canary=canary,
            port=listeners[0].getsockname()[1],
            abstract=name,
            forged=f"forged/{secrets.token_hex(8)}",
            handle="",
            limits=limits,
            reached=lambda: [
                str(each.getsockname()) for each in (*listeners, abstract) if _called(each)
            ],
        )
        _lay_out(made)
        for paths in made.sockets.values():
            stack.enter_context(_unix_listener(Path(paths[0])))
        _keep_key(canary)
        stack.callback(_forget_keys)
        yield made


def _lay_out(made: Ground) -> None:
    owned = made.project / ".planted"
    for folder in (made.project, made.sibling, made.root / "kept", owned):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (made.project, made.sibling):
        os.chown(folder, OWNER, OWNER)
    places = {
        "beside": made.root / "beside-the-project",
        "sibling": made.sibling / "private",
        "other state": made.root / "kept" / "another" / "state.json",
        "store": made.root / "kept" / "supervisor.db",
        "token": made.root / "kept" / "token",
        "credential": made.root / "credential",
    }
    for place in places.values():
        place.parent.mkdir(exist_ok=True)
        place.write_text(made.canary)
        # Its mode is no wall here: what is not mounted is to be the wall.
        place.chmod(0o666)
    made.secrets = {name: [str(place)] for name, place in places.items()}
    for who in ("supervisor", "proxy", "engine"):
        made.sockets[who] = [str(made.root / "kept" / f"{who}.sock")]
    made.handle = _handle(places["beside"])
    _plant(owned, made.canary)


def _plant(folder: Path, canary: str) -> None:
    """Programs that lend root's rights, where nothing takes them away, and what only root reads."""
    cat = Path(shutil.which("cat") or "/bin/cat").resolve()
    for name in ("setuid", "capable"):
        shutil.copyfile(cat, folder / name)
        (folder / name).chmod(0o755)
    (folder / "setuid").chmod(0o755 | stat.S_ISUID)
    capability = struct.pack("<IIIII", 0x02000001, _CAP_DAC_OVERRIDE, 0, 0, 0)
    os.setxattr(folder / "capable", "security.capability", capability)
    (folder / "roots").write_text(canary)
    (folder / "roots").chmod(0o600)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _handle(path: Path) -> str:
    """As open_by_handle_at takes it."""
    wanted = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    mount = ctypes.c_int()
    calls.call("name_to_handle_at", -100, str(path).encode(), wanted, ctypes.byref(mount), 0)
    size = struct.unpack_from("=I", wanted.raw)[0]
    return wanted.raw[: 8 + size].hex()


# -- listeners


def _on_loopback() -> list[socket.socket]:
    """The same port of both loopbacks."""
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    return [first, socket.create_server(("::1", port), family=socket.AF_INET6)]


def _called(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o777)
    listener.listen(16)
    return listener


# -- keys


def _as_owner(work: Callable[[], object]) -> None:
    """In a thread of its own: to the kernel each thread is somebody, to libc only all are."""
    libc = ctypes.CDLL(None, use_errno=True)
    setresgid, setresuid = (119, 117) if os.uname().machine == "x86_64" else (149, 147)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for number in (setresgid, setresuid):
                if libc.syscall(number, OWNER, OWNER, OWNER) != 0:
                    raise OSError(ctypes.get_errno(), "setresuid")
            work()
        except BaseException as error:  # noqa: BLE001  raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _keep_key(canary: str) -> None:
    """In the ring of the user whose uid the agent has, as a login of that user would."""
    text = canary.encode()
    _as_owner(lambda: calls.call("add_key", b"user", b"escape-suite", text, len(text), _USER_RING))


def _forget_keys() -> None:
    _as_owner(lambda: calls.call("keyctl", 7, _USER_RING))
