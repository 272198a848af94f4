"""Reading a container's cgroup, over files as Linux writes them, versions 1 and 2."""

import shutil
from pathlib import Path

import pytest

from supervisor.ports.runtime import Usage
from supervisor.runtimes.cgroups import Cgroup, cgroup_of, located

DATA = Path(__file__).parent / "data"
CONTAINER = "4f1c9d0e2b7a86355d1e0c94b7f2a3d86e5b1c0f9a8d7e6c5b4a39281706f5e4"


def cgroup(version: str, root: Path | None = None) -> Cgroup:
    text = (DATA / version / "proc_cgroup").read_text()
    found = located(text, CONTAINER, root or DATA / version)
    assert found is not None
    return found


def test_version_1_is_read() -> None:
    assert cgroup("v1").usage() == Usage(
        memory_bytes=1204224 - inactive_of_v1(),
        memory_limit_bytes=64 << 20,
        memory_peak_bytes=64 << 20,
        cpu_seconds=1.448498714,
        throttled_seconds=5.571635253,
        throttled_periods=71,
        pids=3,
        pids_limit=64,
        oom_kills=1,
    )
    assert cgroup("v1").oom_kills() == 1
    assert not cgroup("v1").frozen()


def inactive_of_v1() -> int:
    (file,) = DATA.glob("v1/memory/*/*/memory.stat")
    (line,) = [each for each in file.read_text().splitlines() if "total_inactive_file" in each]
    return int(line.split()[1])


def test_version_2_is_read_at_the_containers_own_level() -> None:
    found = cgroup("v2")
    assert found.version == 2
    assert found.usage() == Usage(
        memory_bytes=73400320 - 12582912,
        memory_limit_bytes=256 << 20,
        memory_peak_bytes=192 << 20,
        cpu_seconds=8.123456,
        throttled_seconds=2.75,
        throttled_periods=42,
        pids=17,
        pids_limit=256,
        oom_kills=2,
    )
    assert found.oom_kills() == 2
    assert not found.frozen()
    # Where the processes are: a level below.
    assert found.processes() == {4242, 4250}


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [
        ("v1", "freezer.state", "FREEZING\n"),
        ("v1", "freezer.state", "FROZEN\n"),
        ("v2", "cgroup.freeze", "1\n"),
    ],
)
def test_a_paused_one_is_known(tmp_path: Path, version: str, name: str, text: str) -> None:
    shutil.copytree(DATA / version, tmp_path / "root")
    (file,) = (tmp_path / "root").rglob(name)
    file.write_text(text)
    assert cgroup(version, tmp_path / "root").frozen()


def test_no_limit_is_none(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "data")
    for name, said in (
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("pids.max", "max\n"),
        ("memory.max", "max\n"),
    ):
        for file in (tmp_path / "data").rglob(name):
            file.write_text(said)
    for version in ("v1", "v2"):
        usage = cgroup(version, tmp_path / "data" / version).usage()
        assert usage is not None
        assert usage.memory_limit_bytes is None
        assert usage.pids_limit is None


def test_a_kernel_without_a_peak_is_read_all_the_same(tmp_path: Path) -> None:
    shutil.copytree(DATA / "v2", tmp_path / "v2")
    (peak,) = (tmp_path / "v2").rglob("memory.peak")
    peak.unlink()
    usage = cgroup("v2", tmp_path / "v2").usage()
    assert usage is not None
    assert usage.memory_peak_bytes is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_one_that_has_gone_reads_as_nothing(tmp_path: Path, version: str) -> None:
    gone = cgroup(version, tmp_path / "gone")
    assert gone.usage() is None
    assert gone.oom_kills() is None
    assert gone.processes() == set()
    assert not gone.frozen()


@pytest.mark.parametrize(
    "text",
    [
        "0::/user.slice/session-2.scope\n",
        "4:memory:/\n0::/\n",
        f"4:memory:/libpod_parent/libpod-{'0' * 64}\n",
        "",
    ],
    ids=["elsewhere", "ended", "another", "empty"],
)
def test_a_process_that_is_not_in_the_container_has_none(text: str) -> None:
    assert located(text, CONTAINER) is None


def test_without_a_container_there_is_no_cgroup_of_its_own() -> None:
    assert located("0::/user.slice/session-2.scope\n", "") is None
    assert located("4:memory:/\n", "") is None


def test_controllers_that_share_a_hierarchy_share_its_directory() -> None:
    found = located(f"3:cpu,cpuacct:/libpod-{CONTAINER}\n", CONTAINER, Path("/cg"))
    assert found is not None
    place = Path(f"/cg/cpu,cpuacct/libpod-{CONTAINER}")
    assert found.directories == {"cpu": place, "cpuacct": place}


def test_a_process_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert cgroup_of(42, CONTAINER, proc_root=tmp_path) is None
