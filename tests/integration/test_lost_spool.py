"""What was spooled is gone when a successor comes: it says so, and the project goes on."""

import json
import shutil
from pathlib import Path

import psutil
import pytest

from tests.integration.hosted import hosted, watching
from tests.integration.serving import until


def ended(pid: int) -> bool:
    """Whether it runs no more; who started it may not have looked yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("lost", ["directory", "spool", "half"])
async def test_a_lost_spool_renews_the_epoch_and_the_project_goes_on(
    lost: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("p")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            await seen.until_end(await host.send(project, thread, "text n=3"))
        status = await host.call(project, "projectStatus")
        await host.call(project, "listAudit", limit=1)  # writes what waits
    spool = host.spool(project)
    if lost == "directory":
        shutil.rmtree(spool.parent)
    elif lost == "spool":
        spool.unlink()
    else:
        spool.write_bytes(spool.read_bytes()[:100])
    async with hosted(tmp_path) as host:
        assert await host.open("p") == project
        async with watching(host, project, after=status["cursor"]) as seen:
            await seen.until(lambda s: len(s.payloads) >= 2)
            kinds = [json.loads(payload)["type"] for payload in seen.payloads[:2]]
            assert kinds == ["expired", "snapshot"]
            if lost != "half":
                await until(lambda: ended(status["pid"]))
            await seen.until_end(await host.send(project, thread, "text n=3"))
            again = await host.call(project, "projectStatus")
            assert again["cursor"].split(".")[0] != status["cursor"].split(".")[0]
            assert again["generation"] == (1 if lost == "half" else 2)
