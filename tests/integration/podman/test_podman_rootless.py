"""Podman without root, as a user made for this test: what holds, and what is said of what does not.

Everything is checked from one run, which takes some seconds: a user's first container sets up a
storage of its own.
"""

import contextlib
import io
import json
import os
import pwd
import shutil
import site
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import require

REPOSITORY = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("rootless_driver.py")
TOOLS = ("sh", "cat", "id", "touch")
NEEDED = ("podman", "useradd", "userdel", "newuidmap", "newgidmap", "setpriv", "catatonit", "ldd")
DEADLINE = 100


class User:
    """An ordinary user of this machine, who goes when the test does."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        found = pwd.getpwnam(name)
        self.uid, self.gid = found.pw_uid, found.pw_gid

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """With nothing of our environment, and in a session of its own."""
        become = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--init-groups"]
        paths = os.pathsep.join([str(REPOSITORY), *site.getsitepackages()])
        return subprocess.run(
            # setpriv itself starts a program with root's rights still, whatever that is then left.
            [*become, "--inh-caps=-all", "env", *argv],
            cwd=self.root,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": str(self.root / "home"),
                "XDG_RUNTIME_DIR": str(self.root / "run"),
                "PYTHONPATH": paths,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self.uid in process.uids() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> None:
        """podman keeps one process for as long as the user may come back."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(self.processes(), timeout=10)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    require(os.geteuid() == 0, "root, to make an ordinary user")
    for program in NEEDED:
        require(shutil.which(program), program)
    name = f"cstest{os.getpid()}"
    root = Path(tempfile.mkdtemp(prefix="codex-supervisor-rootless-", dir="/var/tmp"))
    argv = ["useradd", "--home-dir", str(root / "home"), "--shell", "/usr/sbin/nologin", name]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        require(made.returncode == 0, f"a user of its own ({made.stderr.strip()})")
        someone = User(name, root)
        for path in (root, root / "home", root / "run", root / "work"):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
            os.chown(path, someone.uid, someone.gid)
        yield someone
        someone.end()
    finally:
        subprocess.run(["userdel", "--force", name], capture_output=True, check=False)
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def told(user: User) -> dict[str, Any]:
    python = _python(user)
    archive = user.root / "image.tar"
    _write_image(archive)
    archive.chmod(0o644)
    works = user.run("podman", "unshare", "true")
    require(works.returncode == 0, f"podman without root ({works.stderr.strip()[-300:]})")
    done = user.run(python, str(DRIVER), str(user.root / "work"), str(archive))
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _python(user: User) -> str:
    """One that this user may run: ours may be in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        if user.run(python, "-c", "import supervisor.runtimes.podman").returncode == 0:
            return python
    require(False, "a python that an ordinary user can run with what is installed here")
    raise AssertionError


def _write_image(archive: Path) -> None:
    """A shell of this machine and what it needs, and nothing else: made in a moment."""
    files: set[Path] = set()
    with tarfile.open(archive, "w") as tar:
        for tool in TOOLS:
            binary = Path(shutil.which(tool) or "").resolve()
            _add(tar, binary, f"bin/{tool}")
            listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True)
            files |= {Path(word) for word in listed.stdout.split() if word.startswith("/")}
        for file in files:
            _add(tar, file.resolve(), str(file).lstrip("/"))


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    content = file.read_bytes()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def test_it_runs_without_root_and_the_project_is_its_users(
    told: dict[str, Any], user: User
) -> None:
    assert told["sort"]["rootless"] is True
    assert f"\n{told['uid']}\ngot word\n" in "\n" + told["held"]["out"]
    assert (user.root / "work" / "project" / "file").stat().st_uid == user.uid
    assert told["exit"] == {"code": None, "signal": 15, "oom": False}


def test_copies_belong_to_another_uid_and_nobody_inside_gets_at_the_stdio(
    told: dict[str, Any], user: User
) -> None:
    owner, mode = told["copy"]
    assert owner not in (0, user.uid)
    assert int(mode, 8) == stat.S_IFREG | 0o711
    assert told["same_copies"] is True
    held = told["held"]
    assert held["confinement"]["stdioOutOfReach"] is True
    assert held["out"] == f"{user.uid}\ngot word\n"
    assert held["err"].count("ermission denied") == 4


def test_with_copies_of_ones_own_they_do_and_that_is_said(told: dict[str, Any], user: User) -> None:
    found = told["open"]
    assert found["confinement"]["stdioOutOfReach"] is False
    assert any("own user" in doubt for doubt in found["confinement"]["doubts"])
    assert found["out"].count("forged") == 2
    assert "CODEX_SUPERVISOR_GENERATION" in found["out"]


def test_limits_that_nothing_enforces_are_told_of_and_refused_where_they_are_required(
    told: dict[str, Any],
) -> None:
    confinement = told["held"]["confinement"]
    if told["sort"]["cgroups"] == "v1":
        assert told["held"]["own_cgroup"] is False
        assert confinement["limitsHold"] is False
        assert "version 1" in confinement["doubts"][0]
    assert confinement["limitsHold"] is ("required" not in told)
    if "required" in told:
        assert told["required"]["code"] == "limits_not_held"
        assert told["required"]["message"].startswith(confinement["doubts"][0])


def test_a_successor_finds_it_and_nothing_is_left(told: dict[str, Any], user: User) -> None:
    assert told["adopted"] == told["held"]["confinement"]
    assert len(told["markers"]) == 1
    assert told["killed"]["signal"] == 9
    assert told["left"] == []
    assert told["files"] == ["service"]
    left = {process.name() for process in user.processes()}
    # podman's own, which holds the user's namespace.
    assert left <= {"catatonit", "podman", "podman pause"}
