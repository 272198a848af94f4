"""A credential is given to the proxy, used, and then looked for wherever it must not be."""

import asyncio
import json
import random
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.containers import OWNER
from tests.e2e.escape.ground import put_inside
from tests.e2e.escape.inside import search
from tests.rig import FREE, Rig, contained_rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

SEED = 20261121
# Whatever of the listener might tell what it adds.
QUESTIONS = (
    "curl -sS -i -d {} http://127.0.0.1:8181/v1/responses",
    "curl -sS -i -X TRACE http://127.0.0.1:8181/v1/responses",
    "curl -sS -i http://127.0.0.1:8181/v1/models",
    "curl -sS -i --path-as-is http://127.0.0.1:8181/v1/../control/requests",
    "curl -sS -i -x http://127.0.0.1:8181 http://127.0.0.1:8181/control/requests",
    "curl -sS -i -x http://127.0.0.1:8181 https://169.254.169.254/latest",
    "curl -sS -i http://127.0.0.1:8182/",
)
# Where a secret would be, were it there: in memory, environment, words and a file.
CONTROL = """
import os, sys, time
word = open("word").read()[::-1]
open("/tmp/here", "w").write(word)
if len(sys.argv) == 1:
    os.execve(sys.executable, ["python3", __file__, word], {**os.environ, "WORD": word})
held = word.encode()
open("ready", "w").close()
time.sleep(600)
"""


async def test_the_credential_is_nowhere_but_in_the_proxy(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    key, word = (f"sk-canary-{chance.getrandbits(160):040x}" for _ in range(2))
    async with contained_rig(tmp_path, log_level="debug", punch_spools=False) as rig:
        (tmp_path / "model-key").write_text(f"{key}\n")
        await rig.start()
        async with talk(rig) as project:
            await _used(rig, project, word)
            assert {r.authorization for r in rig.model.requests} == {f"Bearer {key}"}
            container = (await project.ready())["confinement"]["container"]

            inside = await asyncio.to_thread(_seen_inside, rig, container, [key, word])
            assert inside[0] == []
            places = {place.rpartition("/")[2] for place in inside[1]}
            assert places >= {"environ", "cmdline", "mem", "here"}

            told = json.dumps(project.reader.events) + await _metrics(rig)
            told += await asyncio.to_thread(rig.podmans, "inspect", container)
            assert key not in told
        outside = await asyncio.to_thread(_seen_outside, rig, [key.encode()])
        assert outside == {"the proxy's memory"}


async def _used(rig: Rig, project: Talk, word: str) -> None:
    """Turns that go well and badly, and one that leaves `word` everywhere."""
    (rig.project_dir / "control.py").write_text(CONTROL)
    (rig.project_dir / "word").write_text(word[::-1])
    thread = await project.thread(FREE)
    asked = "; ".join(f"{question} >>answers 2>&1" for question in QUESTIONS)
    await project.run(
        thread, f'mock:text n=3; mock:exec cmd="{asked}; env >>answers"; mock:text n=1'
    )
    assert (rig.project_dir / "answers").read_text().count("HTTP/1.1") >= 5
    failed = await project.send(thread, "mock:fail status=400 msg=no")
    assert await project.ended(failed) == "failed"
    await project.run(thread, "mock:exec cmd='python3 control.py' yield_ms=250; mock:text n=1")
    await eventually((rig.project_dir / "ready").exists)


def _seen_inside(rig: Rig, container: str, words: list[str]) -> search.Found:
    """By a process of the agent's uid: files, and processes as far as it is let."""
    folder = put_inside(rig.project_dir / ".search")
    told, results = folder / "words.json", folder / "results.json"
    told.write_text(json.dumps([word[::-1] for word in words]))
    argv = ["python3", "-B", "-m", "tests.e2e.escape.inside.search", str(told), str(results)]
    rig.podmans("exec", "--workdir", str(folder), container, *argv)
    found: search.Found = json.loads(results.read_text())
    return found


async def _metrics(rig: Rig) -> str:
    url = f"http://{rig.addresses['host']}:{rig.addresses['port']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


def _seen_outside(rig: Rig, words: list[bytes]) -> set[str]:
    """By root: all that is kept and logged; environment and words of every process; the memory of
    ours, the container's among them. The host has the key's own file besides."""
    places = search.in_tree(rig.root, words)
    places[str(rig.root / "model-key")] = set()
    proxies = [p.pid for p in rig.processes() if "proxy" in p.cmdline()]
    assert len(proxies) == 1
    ours = [p.pid for p in rig.processes()]
    assert len([p for p in ours if psutil.Process(p).uids().real == OWNER]) >= 3
    for process in psutil.process_iter():
        found = search.in_process(process.pid, words) if process.pid in ours else {}
        for name in ("environ", "cmdline"):
            try:
                found[f"{process.pid}/{name}"] = search.in_file(
                    Path(f"/proc/{process.pid}/{name}"), words
                )
            except OSError:
                continue
        places |= found
    named = {f"{proxies[0]}/mem": "the proxy's memory"}
    return {named.get(place, place) for place, found in places.items() if found}
