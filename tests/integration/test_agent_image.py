"""The agent's image, built for real and looked at from inside, under the flags agents run with.

The first run on a machine takes a minute; the image stays, under its own name, for the next.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.runtimes.containers_conf import containers_conf, limits_here, probe, start_once
from tests.conftest import require

BUILD = Path(__file__).parents[2] / "images" / "agent" / "build"
TAG = "localhost/codex-supervisor-agent:slim"
UNAVAILABLE = 69
TOOLS = "bash bwrap curl file git jq less patch ps python3 rg unzip xz"
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")

# The flags an agent runs with, with smaller bounds: nothing its container lacks may be needed here.
HARDENED = (
    "--rm --network none --user 1000:1000 --cap-drop=all --security-opt=no-new-privileges "
    "--read-only --read-only-tmpfs=false --tmpfs /tmp:rw,nosuid,nodev,size=64m,mode=1777 "
    "--shm-size 16m --memory 512m --memory-swap 512m --pids-limit 256 --no-hosts "
    "--hostname agent --http-proxy=false --pull never"
).split()

pytestmark = pytest.mark.timeout(900)  # from nothing, on a slow mirror


def build(*options: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    return run("env", f"TMPDIR={scratch}", str(BUILD), *options)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def image(scratch: Path) -> str:
    """The id of the slim image."""
    require(shutil.which("podman"), "podman")
    require(os.geteuid() == 0, "root, to make a base where no registry answers")
    built = build(scratch=scratch)
    require(built.returncode != UNAVAILABLE, f"what the build needs: {built.stderr[-500:]}")
    assert built.returncode == 0, built.stderr[-3000:]
    return built.stdout.strip()


@pytest.fixture(scope="module")
def podman(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    conf = containers_conf(probe(start_once, limits_here()))
    if not conf:
        yield ["podman"]
        return
    file = tmp_path_factory.mktemp("conf") / "containers.conf"
    file.write_text(conf)
    yield ["env", f"CONTAINERS_CONF={file}", "podman"]


@pytest.fixture(scope="module")
def inside(podman: Sequence[str], image: str) -> "Inside":
    return Inside(podman, image)


class Inside:
    """Runs a script in a container as an agent would."""

    def __init__(self, podman: Sequence[str], image: str) -> None:
        self._argv = [*podman, "run", *HARDENED, image, "bash", "-c"]

    def __call__(self, script: str) -> str:
        done = run(*self._argv, script)
        assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


def test_second_build_does_nothing_and_prints_the_same_id(image: str, scratch: Path) -> None:
    again = build("--target", "slim", "--tag", TAG, scratch=scratch)
    assert (again.returncode, again.stdout.strip(), again.stderr) == (0, image, "")


def test_build_leaves_no_temporary_files(image: str, scratch: Path) -> None:
    assert list(scratch.iterdir()) == []


def test_every_tool_runs_as_a_plain_user(inside: Inside) -> None:
    printed = inside(
        f"for tool in {TOOLS}; do $tool --version >/dev/null 2>&1 || "
        "$tool -v >/dev/null 2>&1 || echo broken: $tool; done; id -u; id -g"
    )
    assert printed.split("\n") == ["1000", "1000", ""]


def test_certificates_are_there(inside: Inside) -> None:
    assert int(inside("grep -c BEGIN /etc/ssl/certs/ca-certificates.crt")) > 50


def test_git_and_python_work_in_the_bounded_tmp(inside: Inside) -> None:
    printed = inside(
        "export HOME=/tmp && cd /tmp && git init -q p && cd p && echo é > a && git add a"
        " && git -c user.name=a -c user.email=a@b commit -qm one && git log --oneline | wc -l"
        " && python3 -m venv --without-pip v && v/bin/python -c 'print(open(\"a\").read().strip())'"
        " && rg -c é a"
    )
    assert printed.split() == ["1", "é", "1"]


def test_codexs_own_sandbox_can_be_made_inside(inside: Inside) -> None:
    require(not USER_NAMESPACES.exists() or int(USER_NAMESPACES.read_text()) > 0, "user namespaces")
    printed = inside(
        "bwrap --ro-bind / / --unshare-user --unshare-pid --unshare-net --dev /dev"
        " sh -c 'touch /tmp/x 2>/dev/null && echo written || echo refused'"
    )
    assert printed.strip() == "refused"


def test_image_holds_no_codex_and_nothing_setuid(inside: Inside) -> None:
    printed = inside(
        "find / -xdev -type f -perm /6000 2>/dev/null; find / -xdev -name 'codex*' -not -path"
        " '/proc/*' 2>/dev/null; command -v codex node gcc; true"
    )
    assert printed == ""


def test_image_carries_no_login_and_no_caches(inside: Inside) -> None:
    printed = inside(
        "grep -rs @ /etc/apt/sources.list /etc/apt/sources.list.d; "
        "find /var/lib/apt/lists /var/cache/apt -type f -size +100k; true"
    )
    assert printed == ""


@pytest.mark.parametrize(
    "options", [["--target", "huge"], ["--tag"], ["--base", ""], ["--nonsense"], ["slim"]]
)
def test_wrong_usage_is_refused_with_its_own_status(options: list[str], scratch: Path) -> None:
    refused = build(*options, scratch=scratch)
    assert (refused.returncode, refused.stdout) == (64, "")
    assert refused.stderr


def test_base_that_cannot_be_had_is_named_and_nothing_built(image: str, scratch: Path) -> None:
    tag = "localhost/codex-supervisor-test:never"
    refused = build("--base", "localhost/codex-supervisor-test:none", "--tag", tag, scratch=scratch)
    assert (refused.returncode, refused.stdout) == (UNAVAILABLE, "")
    assert "localhost/codex-supervisor-test:none cannot be pulled" in refused.stderr
    assert run("podman", "image", "exists", tag).returncode == 1
    assert list(scratch.iterdir()) == []


def test_failed_build_keeps_the_image_there_was(image: str, scratch: Path) -> None:
    """An image that is no Debian: the build fails, and its name still means the old one."""
    name = "localhost/codex-supervisor-test:empty"
    empty = scratch / "empty.tar"
    assert run("tar", "-cf", str(empty), "-T", "/dev/null").returncode == 0
    try:
        assert run("podman", "import", "--quiet", str(empty), name).returncode == 0
        failed = build("--base", name, scratch=scratch)
        assert (failed.returncode, failed.stdout) == (1, "")
    finally:
        empty.unlink()
        run("podman", "image", "rm", "--force", name)
    assert build(scratch=scratch).stdout.strip() == image
