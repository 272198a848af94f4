"""What the operator's settings say of containers holds in the real ones, and is to be seen."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.policy.places import project_id
from tests.containers import OWNER, require_podman, without_namespaces
from tests.rig import Rig, contained_rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

MIB = 1 << 20


@asynccontextmanager
async def contained(root: Path, **podman: object) -> AsyncIterator[tuple[Rig, Talk]]:
    async with contained_rig(root, podman=podman) as rig:
        await rig.start()
        async with talk(rig) as project:
            await project.ready()
            yield rig, project


async def inside(rig: Rig, project: Talk, *argv: str) -> str:
    """What a command says that the agent's user runs in the project's container."""
    container = (await project.ready())["confinement"]["container"]
    return await asyncio.to_thread(rig.podmans, "exec", container, *argv)


async def scraped(rig: Rig) -> dict[str, float]:
    """The samples of `/metrics`, by name and labels."""
    url = f"http://{rig.addresses['host']}:{rig.addresses['port']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    families = text_string_to_metric_families(text)
    return {
        "/".join([sample.name.removeprefix("codex_supervisor_"), *sample.labels.values()]): value
        for family in families
        for sample in family.samples
        if (value := sample.value) is not None
    }


# -- limits


async def limits_of(rig: Rig, project: Talk) -> tuple[int, int, int]:
    """Memory and processes as podman has them, /tmp as the kernel does."""
    container = (await project.ready())["confinement"]["container"]
    (told,) = json.loads(await asyncio.to_thread(rig.podmans, "inspect", container))
    host = told["HostConfig"]
    blocks = await inside(rig, project, "stat", "-f", "-c", "%b %S", "/tmp")
    count, size = map(int, blocks.split())
    return host["Memory"], host["PidsLimit"], count * size


@pytest.mark.parametrize("named", [str, project_id], ids=["by-path", "by-id"])
async def test_a_projects_own_limits_take_the_place_of_the_others(
    tmp_path: Path, named: type[str]
) -> None:
    limits = {"memory_bytes": 192 * MIB, "pids": 128, "tmp_bytes": 16 * MIB}
    own = {named(tmp_path / "project"): {"memory_bytes": 256 * MIB, "tmp_bytes": 8 * MIB}}
    other = tmp_path / "other"
    async with contained(tmp_path, limits=limits, projects=own) as (rig, project):
        assert await limits_of(rig, project) == (256 * MIB, 128, 8 * MIB)
        other.mkdir()
        os.chown(other, OWNER, OWNER)
        rig.project_dir = other
        async with talk(rig) as another:
            assert await limits_of(rig, another) == (192 * MIB, 128, 16 * MIB)


# -- mounts


async def test_a_mount_is_read_only_unless_the_operator_said_otherwise(tmp_path: Path) -> None:
    mounts = []
    for name in ("kept", "shared"):
        # Nothing but the mount is in the way of whoever writes.
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text("ours\n")
        (tmp_path / name / "file").chmod(0o666)
        mounts.append({"source": str(tmp_path / name), "destination": f"/mnt/{name}"})
    mounts[1]["writable"] = True  # type: ignore[assignment]
    script = (
        "for d in kept shared; do for f in file new; do"
        ' (echo theirs >>/mnt/$d/$f) 2>&1 | sed "s/.*: //"; done; cat /mnt/$d/file; done;'
        " grep ' /mnt/' /proc/mounts | cut -d' ' -f2,4 | sort"
    )
    async with contained(tmp_path, extra_mounts=mounts) as (rig, project):
        *said, kept, shared = (await inside(rig, project, "sh", "-c", script)).splitlines()
        assert said == ["Read-only file system"] * 2 + ["ours", "ours", "theirs"]
        assert kept.startswith("/mnt/kept ro,")
        assert shared.startswith("/mnt/shared rw,")
        assert all({"nosuid", "nodev"} <= set(line.split(",")) for line in (kept, shared))
    assert (tmp_path / "kept" / "file").read_text() == "ours\n"
    assert (tmp_path / "shared" / "new").read_text() == "theirs\n"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


# -- metrics


async def test_what_containers_use_is_scraped_while_they_run_and_after(tmp_path: Path) -> None:
    limits = {"limits": {"memory_bytes": 256 * MIB}}
    async with contained(tmp_path, **limits) as (rig, project):
        thread = await project.thread()
        bomb = 'python3 -c "x = bytearray(10 ** 9)"'
        await project.run(thread, f"mock:exec cmd='{bomb}'; mock:text n=1")
        running = await scraped(rig)
        assert running["agents_measured"] == 1
        assert 5 * MIB < running["agent_memory_bytes"] < 256 * MIB
        used = running["agent_memory_bytes"] / (256 * MIB)
        assert running["agent_memory_ratio_max"] == pytest.approx(used)
        assert running["agent_pids"] >= 3
        assert running["agent_cpu_seconds_total"] > 0
        assert running["agent_throttled_seconds_total"] >= 0
        assert running["agent_oom_kills_total"] == 1
        assert running["proxy_connected"] == 1
        walls = ("memory_limit", "pids_limit", "inner_wall")
        assert [running[f"agents_without/{wall}"] for wall in walls] == [0, 0, 0]
        await project.call("stopProject")
        await eventually(lambda: rig.containers() == [])
        after = await scraped(rig)
        assert (after["agents_measured"], after["agent_memory_bytes"]) == (0, 0)
        assert after["agent_cpu_seconds_total"] >= running["agent_cpu_seconds_total"]
        assert after["agent_oom_kills_total"] == 1


async def test_a_missing_inner_wall_is_counted(tmp_path: Path) -> None:
    conf = without_namespaces(tmp_path, require_podman(tmp_path))
    wished = {"inner_wall": "prefer", "containers_conf": str(conf)}
    async with contained(tmp_path, **wished) as (rig, project):
        await project.told("supervisor/agentReady", generation=2)
        assert (await scraped(rig))["agents_without/inner_wall"] == 1
