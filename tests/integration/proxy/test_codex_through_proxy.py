"""The real Codex, with the proxy for its model."""

import os
import signal
from pathlib import Path

import codex_cli_bin
import pytest

from supervisor.ports.model_access import MODEL_PORT
from supervisor.settings_groups import ProxySettings
from supervisor.testing.codex_config import codex_environment, codex_overrides
from supervisor.testing.driver import BareAppServer, accept
from supervisor.testing.model import ScriptedModel
from tests.integration.proxy.boxes import box, link, reached
from tests.integration.proxy.doors import CANARY, door, key_file

WEBSOCKETS = ["-c", "model_providers.mock.supports_websockets=true"]


@pytest.mark.codex
@pytest.mark.parametrize("more", [[], WEBSOCKETS], ids=["plain", "websockets"])
async def test_turns_commands_and_compaction_need_no_other_path(
    tmp_path: Path, more: list[str]
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    async with ScriptedModel() as model:
        settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
        async with door(settings) as inside:
            overrides = [*codex_overrides(inside.url), *more]
            codex = codex_cli_bin.bundled_codex_path()
            async with BareAppServer.codex(
                codex, home, project, overrides, answer=accept
            ) as server:
                started = await server.request("thread/start", {"cwd": str(project)})
                thread = {"threadId": started["thread"]["id"]}

                async def ended() -> str:
                    said = await server.until("turn/completed")
                    return str(said[-1]["params"]["turn"]["status"])

                for prompt in ("mock:text n=3", "mock:exec cmd='echo hi'"):
                    text = [{"type": "text", "text": prompt}]
                    await server.request("turn/start", {**thread, "input": text})
                    assert await ended() == "completed"
                await server.request("thread/compact/start", thread)
                assert await ended() == "completed"
            requests = dict(inside.served().requests)
        # The upgrade alone is refused: Codex goes on without it, and asks no second time.
        assert requests.pop("refused", 0) == (1 if more else 0)
        assert requests == {"completed": len(model.requests)}
        assert {request.authorization for request in model.requests} == {f"Bearer {CANARY}"}


@pytest.mark.codex
async def test_a_turn_completes_although_the_proxy_is_killed_in_its_stream(
    tmp_path: Path, directory: Path
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    with box() as process:
        async with ScriptedModel() as model:
            settings = ProxySettings(base_url=model.base_url, key_file=key_file(tmp_path))
            async with link(directory, settings) as made:
                await made.open(reached(process.pid))
                argv = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "--"]
                argv += [str(codex_cli_bin.bundled_codex_path())]
                argv += [*codex_overrides(f"http://127.0.0.1:{MODEL_PORT}/v1"), "app-server"]
                env = codex_environment(home)
                async with BareAppServer(argv, env=env, cwd=project) as server:
                    started = await server.request("thread/start", {"cwd": str(project)})
                    text = [{"type": "text", "text": "mock:stall after=1 n=3 times=1"}]
                    turn = {"threadId": started["thread"]["id"], "input": text}
                    await server.request("turn/start", turn)
                    await server.until("item/agentMessage/delta")
                    before = made.facts().pid
                    assert before is not None
                    os.kill(before, signal.SIGKILL)
                    said = await server.until("turn/completed")
                assert said[-1]["params"]["turn"]["status"] == "completed"
                assert made.facts().pid != before
            assert [request.attempt for request in model.requests] == [1, 2]
