"""What holds of a container's confinement, from what was found: both cgroup versions, podman 5."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.cgroups import InForce, located
from supervisor.runtimes.confinement import (
    Facts,
    Program,
    confinement,
    examined,
    expected,
    require_limits,
    unknown,
)
from supervisor.runtimes.podman_command import Sort
from supervisor.runtimes.rootless import has_subordinates
from supervisor.runtimes.spec import Limits

DATA = Path(__file__).parent / "data"
CONTAINER = "4f1c9d0e2b7a86355d1e0c94b7f2a3d86e5b1c0f9a8d7e6c5b4a39281706f5e4"
AGENT = 1000
ASKED = {
    "v1": Limits(memory_bytes=64 << 20, pids=64, cpus=1.5),
    "v2": Limits(memory_bytes=256 << 20, pids=256, cpus=1.5),
}
HELD = InForce(memory_bytes=256 << 20, swap_bytes=0, pids=256, cpus=1.5)
INIT, CODEX = Path("/run/podman-init"), Path("/opt/codex/bin/codex")
PROGRAMS = (Program(path=INIT, uid=0, mode=0o711), Program(path=CODEX, uid=0, mode=0o711))


def facts(**changes: object) -> Facts:
    sound = Facts(
        container=CONTAINER,
        rootless=False,
        cgroups="v2",
        asked=ASKED["v2"],
        in_force=HELD,
        machine_swaps=True,
        agent_uid=AGENT,
        programs=PROGRAMS,
    )
    return msgspec.structs.replace(sound, **changes)


def in_force(version: str, root: Path) -> InForce:
    cgroup = located((root / "proc_cgroup").read_text(), CONTAINER, root)
    assert cgroup is not None
    return cgroup.in_force()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_limits_are_read_as_the_kernel_has_them(version: str) -> None:
    asked = ASKED[version]
    assert in_force(version, DATA / version) == InForce(
        memory_bytes=asked.memory_bytes, swap_bytes=0, pids=asked.pids, cpus=asked.cpus
    )


@pytest.mark.parametrize(
    ("version", "names", "missing"),
    [
        ("v1", ["memory.limit_in_bytes"], {"memory_bytes", "swap_bytes"}),
        ("v1", ["cpu.cfs_quota_us"], {"cpus"}),
        ("v1", ["memory.memsw.limit_in_bytes"], {"swap_bytes"}),
        ("v2", ["memory.max"], {"memory_bytes"}),
        ("v2", ["cpu.max"], {"cpus"}),
        ("v2", ["pids.max", "memory.swap.max"], {"pids", "swap_bytes"}),
    ],
)
def test_a_controller_that_was_not_delegated_has_no_limit(
    tmp_path: Path, version: str, names: list[str], missing: set[str]
) -> None:
    root = tmp_path / version
    shutil.copytree(DATA / version, root)
    for name in names:
        (file,) = root.rglob(name)
        file.unlink()
    found = in_force(version, root)
    assert {name for name in found.__struct_fields__ if getattr(found, name) is None} == missing


@pytest.mark.parametrize(
    ("version", "name", "text", "field"),
    [
        ("v1", "cpu.cfs_quota_us", "-1\n", "cpus"),
        ("v1", "memory.limit_in_bytes", "9223372036854771712\n", "memory_bytes"),
        ("v1", "pids.max", "max\n", "pids"),
        ("v2", "cpu.max", "max 100000\n", "cpus"),
        ("v2", "memory.max", "max\n", "memory_bytes"),
        ("v2", "memory.swap.max", "max\n", "swap_bytes"),
        ("v2", "pids.max", "", "pids"),
    ],
)
def test_no_limit_is_none(tmp_path: Path, version: str, name: str, text: str, field: str) -> None:
    root = tmp_path / version
    shutil.copytree(DATA / version, root)
    (file,) = root.rglob(name)
    file.write_text(text)
    assert getattr(in_force(version, root), field) is None


def test_a_sound_one_has_no_doubts() -> None:
    for sound in (facts(), facts(rootless=True), facts(cgroups="v1")):
        found = confinement(sound)
        assert (found.limits_hold, found.stdio_out_of_reach, found.doubts) == (True, True, ())
        assert found.container == CONTAINER
        require_limits(found)


def limits_doubts(**changes: object) -> Sequence[str]:
    found = confinement(facts(**changes))
    assert found.stdio_out_of_reach
    assert found.limits_hold is (found.doubts == ())
    return found.doubts


def without(*names: str) -> InForce:
    return msgspec.structs.replace(HELD, **dict.fromkeys(names))


def test_without_root_and_with_version_1_no_limit_holds_whatever_is_found() -> None:
    for found in (None, HELD):
        (doubt,) = limits_doubts(rootless=True, cgroups="v1", in_force=found)
        assert "version 1" in doubt


def test_a_container_without_a_cgroup_has_no_limits() -> None:
    (doubt,) = limits_doubts(in_force=None)
    assert "no cgroup of its own" in doubt


def test_what_was_not_delegated_is_named() -> None:
    # As of a user's systemd without Delegate=cpu.
    (doubt,) = limits_doubts(rootless=True, in_force=without("cpus"))
    assert "on cpu:" in doubt
    (doubt,) = limits_doubts(in_force=without("memory_bytes", "pids", "cpus"))
    assert "on memory, pids, cpu:" in doubt


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"memory_bytes": 300 << 20}, "memory"), ({"pids": 512}, "pids"), ({"cpus": 2.0}, "cpu")],
)
def test_a_limit_wider_than_what_was_asked_for_is_none(
    changes: dict[str, float], word: str
) -> None:
    (doubt,) = limits_doubts(in_force=msgspec.structs.replace(HELD, **changes))
    assert doubt.startswith(f"the limit on {word} is ")


def test_a_limit_narrower_or_rounded_holds() -> None:
    narrow = InForce(memory_bytes=(256 << 20) - 4096, swap_bytes=0, pids=100, cpus=1.50001)
    assert limits_doubts(in_force=narrow) == ()


def test_limits_of_one_that_nobody_remembers_need_only_be_there() -> None:
    assert limits_doubts(asked=None) == ()
    assert limits_doubts(asked=None, in_force=without("pids")) != ()


def test_swap_beside_the_memory_is_a_doubt_where_the_machine_swaps() -> None:
    for swap in (None, 1 << 20):
        loose = msgspec.structs.replace(HELD, swap_bytes=swap)
        assert limits_doubts(in_force=loose, machine_swaps=False) == ()
        (doubt,) = limits_doubts(in_force=loose)
        assert "swap" in doubt


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (Program(path=INIT, uid=0, mode=0o755), "can be read"),
        (Program(path=INIT, uid=0, mode=0o751), "can be read"),
        (Program(path=INIT, uid=0, mode=0o715), "can be read"),
        (Program(path=INIT, uid=AGENT, mode=0o711), "own user"),
        (Program(path=INIT), "cannot be looked at"),
    ],
)
def test_a_program_that_the_agent_can_read_leaves_the_stdio_within_reach(
    program: Program, word: str
) -> None:
    for programs in ((program, PROGRAMS[1]), (PROGRAMS[0], program)):
        found = confinement(facts(programs=programs))
        assert found.limits_hold
        assert not found.stdio_out_of_reach
        (doubt,) = found.doubts
        assert word in doubt
        assert "/run/podman-init" in doubt


def test_limits_that_are_required_and_do_not_hold_are_refused_with_all_the_reasons() -> None:
    with pytest.raises(SupervisorError, match=r"on pids.*swap") as caught:
        require_limits(confinement(facts(in_force=without("pids", "swap_bytes"))))
    assert caught.value.code is ErrorCode.LIMITS_NOT_HELD
    assert not caught.value.retryable
    assert caught.value.hint
    with pytest.raises(SupervisorError):
        require_limits(unknown(CONTAINER))


def test_what_is_found_is_found_in_proc(tmp_path: Path) -> None:
    process = tmp_path / "42"
    for path, mode in ((INIT, 0o711), (CODEX, 0o755)):
        file = process / "root" / str(path).lstrip("/")
        file.parent.mkdir(parents=True)
        file.touch()
        file.chmod(mode)
    (process / "status").write_text("Name:\tcatatonit\nUid:\t1000\t1001\t1002\t1003\n")
    (tmp_path / "swaps").write_text("Filename\tType\n/dev/vdb\tpartition\n")
    asked = ASKED["v2"]
    found = examined(
        *(CONTAINER, 42, None), rootless=True, cgroups="v2", asked=asked, proc_root=tmp_path
    )
    assert (found.agent_uid, found.machine_swaps, found.in_force) == (1000, True, None)
    assert [program.mode for program in found.programs] == [0o711, 0o755]
    assert found.asked == asked
    with pytest.raises(OSError, match="43"):
        examined(CONTAINER, 43, None, rootless=True, cgroups="v2", asked=None, proc_root=tmp_path)


# -- before any container


@pytest.mark.parametrize(
    ("line", "doubts"),
    [
        ("v1-rootful", ()),
        ("v1-rootless", ("version 1",)),
        ("v2-rootful", ()),
        ("v2-rootless", ("on cpu:",)),
        ("v2-rootless-undelegated", ("on memory, pids, cpu:",)),
    ],
)
def test_what_podman_says_of_itself_tells_whether_limits_will_hold(
    line: str, doubts: Sequence[str]
) -> None:
    sort = msgspec.json.decode((DATA / "info" / f"{line}.json").read_bytes(), type=Sort)
    found = expected(
        rootless=sort.rootless, cgroups=sort.cgroups, controllers=sort.controllers or ()
    )
    assert len(found) == len(doubts)
    assert all(word in doubt for word, doubt in zip(doubts, found, strict=True))


@pytest.mark.parametrize(
    ("maps", "has"),
    [
        ("0 1001 1\n1 100000 65536\n0 1001 1\n1 100000 65536\n", True),
        ("0 1001 1\n0 1001 1\n", False),
        ("0 1001 1\n1 100000 65536\n0 1001 1\n", False),
        ("         0          0 4294967295\n         0          0 4294967295\n", True),
        ("", False),
    ],
    ids=["granted", "none", "no-groups", "root", "nothing"],
)
def test_a_user_with_subordinate_ids_is_known_by_its_maps(maps: str, has: bool) -> None:
    assert has_subordinates(maps) is has
