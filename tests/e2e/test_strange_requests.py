"""What a client may send and Codex must survive: strange text, and requests about no turn."""

from pathlib import Path

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.model import ScriptedModel, config_toml
from tests.integration.hosted import Hosted, hosted, watching

pytestmark = pytest.mark.codex

NO_TURN = "00000000-0000-7000-8000-000000000000"
STRANGE = ["a\u0000b", "\u2028\u2029\ufeff\uffff", "x\r\ny\x1b[2J", "\U0001f600" * 5000]


async def refused(host: Hosted, project: str, method: str, **params: object) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        await host.call(project, method, **params)
    return caught.value


async def test_strange_requests_are_refused_or_carried_out_and_codex_lives(tmp_path: Path) -> None:
    home = tmp_path / "codex-home"
    home.mkdir()
    async with ScriptedModel() as model:
        (home / "config.toml").write_text(config_toml(model.base_url))
        async with hosted(tmp_path, codex_bin=None, line_limit_bytes=2**24) as host:
            project = await host.open("p")
            async with watching(host, project) as seen:
                thread = await host.thread(project)
                turn = ""
                for text in STRANGE:
                    turn = await host.send(project, thread, text)
                    await seen.until_end(turn)
                about: dict[str, object] = {"threadId": thread, "turnId": turn}
                error = await refused(host, project, "steerTurn", **about, text="too late")
                assert error.code is ErrorCode.TURN_UNKNOWN, error.message
                assert error.hint
                error = await refused(
                    host, project, "interruptTurn", threadId=thread, turnId=NO_TURN
                )
                assert error.code is ErrorCode.TURN_UNKNOWN, error.message
                error = await refused(host, project, "interruptTurn", **about)
                assert error.code is ErrorCode.TURN_UNKNOWN, error.message
                error = await refused(
                    host, project, "steerTurn", **about | {"threadId": NO_TURN}, text="x"
                )
                assert error.code is ErrorCode.THREAD_UNKNOWN, error.message
                status = await host.call(project, "projectStatus")
                assert (status["generation"], status["state"]) == (1, "ready")
