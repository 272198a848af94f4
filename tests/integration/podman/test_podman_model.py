"""What a container without a network reaches: the model's own paths, and nothing else."""

import asyncio
import json
import random
from pathlib import Path

import psutil

from supervisor.credentials.link import ProxyLink
from supervisor.ids import Generation, ProjectId
from supervisor.ports.model_access import MODEL_PORT, Reached
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings
from supervisor.testing.model import ScriptedModel
from tests.containers import Boxes
from tests.contract.scripted import Scripts, soon

KEY = "sk-canary-0123456789abcdef"
# Asks for each address, and says what it was answered.
ASK = """
import json, sys, urllib.error, urllib.request
said = json.dumps({"model": "m", "input": [{"role": "user", "content": [
    {"type": "input_text", "text": "mock:text n=3"}]}]}).encode()
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, said, timeout=20) as answer:
            print(answer.status, b"response.completed" in answer.read())
    except urllib.error.HTTPError as error:
        print(error.code, json.loads(error.read())["error"]["code"])
    except OSError as error:
        print(type(error).__name__)
"""


async def test_a_container_reaches_the_models_paths_and_nothing_else(
    runtime: PodmanRuntime, boxes: Boxes, scripts: Scripts, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    process = await runtime.start(scripts.launch("exec sleep 600"))
    identity = process.identity
    directory = tmp_path / "proxy"
    async with ScriptedModel() as model:
        settings = ProxySettings(base_url=model.base_url, key_file=key)
        made = ProxyLink(settings, directory, environment(), rng=random.Random(1))
        async with made as link:
            reached = Reached(
                project=ProjectId("p"),
                generation=Generation(1),
                marker=scripts.marker,
                pid=identity.pid,
                start_ticks=identity.start_ticks,
            )
            await soon(link.open(reached))
            proxy = link.facts().pid
            inside = f"http://127.0.0.1:{MODEL_PORT}/v1"
            asked = [f"{inside}/responses", f"{inside}/files", model.base_url + "/responses"]
            asked += ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/"]
            said = await soon(ask(boxes, identity.container, *asked))
            assert said == ["200 True", "404 path_not_allowed", *["URLError"] * 3]
            assert [r.authorization for r in model.requests] == [f"Bearer {KEY}"]
            inspected = boxes.podman.ask("inspect", identity.container)
            assert KEY not in inspected
            assert json.loads(inspected)[0]["NetworkSettings"]["IPAddress"] == ""
            await process.kill_tree()
            assert link.facts().served == 0
    assert proxy is not None
    ended = psutil.Process(proxy)
    ended.terminate()
    assert psutil.wait_procs([ended], timeout=30)[1] == []


async def ask(boxes: Boxes, container: str, *urls: str) -> list[str]:
    """One line of an answer for each, from inside."""
    said = await asyncio.to_thread(boxes.podman.ask, "exec", container, "python3", "-c", ASK, *urls)
    return said.splitlines()
