"""The site's key as systemd gives it to the proxy's unit: a file in a directory of its own."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from supervisor.ports.model_access import MODEL_PORT
from supervisor.settings import environment
from supervisor.settings_groups import ProxySettings
from supervisor.testing.model import ScriptedModel
from tests.contract.scripted import until
from tests.integration.proxy.boxes import box, connect_inside, link, reached
from tests.integration.proxy.doors import CANARY


def answered(pid: int) -> bytes:
    """What the model says to a request from inside of that process's namespace."""
    content = [{"type": "input_text", "text": "mock:text n=2"}]
    body = json.dumps({"model": "m", "input": [{"role": "user", "content": content}]})
    head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    said = b""
    with connect_inside(pid, MODEL_PORT) as sock:
        sock.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        while piece := sock.recv(65536):
            said += piece
    return said


async def test_the_unit_adds_the_credential_that_systemd_gave_it(
    directory: Path, tmp_path: Path
) -> None:
    given = tmp_path / "credentials"
    given.mkdir(mode=0o700)
    (given / "openai").write_text(f"{CANARY}\n")
    (given / "openai").chmod(0o400)
    path = tmp_path / "run" / "proxy.sock"
    command = [sys.executable, "-m", "supervisor.cli.main", "proxy", "--socket", str(path)]
    with box() as process:
        async with ScriptedModel() as model:
            unit = await asyncio.create_subprocess_exec(
                *(*command, "--state-dir", str(tmp_path)),
                env={
                    **environment(),
                    "CREDENTIALS_DIRECTORY": str(given),
                    "CODEX_SUPERVISOR_PROXY__CREDENTIAL": "openai",
                    "CODEX_SUPERVISOR_PROXY__BASE_URL": model.base_url,
                },
                stderr=subprocess.DEVNULL,
            )
            try:
                # The supervisor itself knows neither the name nor the directory.
                async with link(directory, ProxySettings(socket=path)) as made:
                    await until(lambda: made.facts().connected)
                    await made.open(reached(process.pid))
                    assert b"response.completed" in await asyncio.to_thread(answered, process.pid)
                    assert made.facts().credential
            finally:
                unit.terminate()
                await unit.wait()
            assert [r.authorization for r in model.requests] == [f"Bearer {CANARY}"]
