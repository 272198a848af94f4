"""The person's existing Codex login is used where it lies, and copied nowhere."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.testing.model import config_toml
from tests.rig import ASKING, Rig, rig
from tests.talk import talk

pytestmark = pytest.mark.codex

KEY = "sk-of-the-person-0123456789abcdef"
LOGIN = json.dumps({"OPENAI_API_KEY": KEY}).encode()


def logged_in(rig: Rig) -> Path:
    """Give the rig's CODEX_HOME the login of a person; where it lies."""
    config = config_toml(rig.model.base_url, auth=True)
    (rig.codex_home / "config.toml").write_text(config)
    path = rig.codex_home / "auth.json"
    path.write_bytes(LOGIN)
    path.chmod(0o600)
    return path


def holding(directory: Path, secret: str) -> Iterator[Path]:
    """Every file below that has these bytes in it, or in its name."""
    for path in directory.rglob("*"):
        plain = path.is_file() and not path.is_symlink()
        if secret in path.name or (plain and secret.encode() in path.read_bytes()):
            yield path


def shown_by(processes: list[psutil.Process], secret: str) -> list[int]:
    """Processes that show it in their command line or environment."""
    return [
        each.pid
        for each in processes
        if any(secret in part for part in (*each.cmdline(), *each.environ().values()))
    ]


async def test_the_persons_login_reaches_the_model_and_is_copied_nowhere(tmp_path: Path) -> None:
    async with rig(tmp_path, log_level="debug") as made:
        login = logged_in(made)
        before = login.stat()
        await made.start()
        async with talk(made) as project:
            thread = await project.thread(ASKING)
            turn = await project.send(thread, "mock:exec cmd='env > seen'; mock:text n=3")
            approval = await project.asked(turn)
            assert made.process is not None
            everyone = [psutil.Process(made.process.pid), *made.processes()]
            assert len(everyone) > 1
            assert shown_by(everyone, KEY) == []
            await project.answer(approval, "accept")
            assert await project.ended(turn) == "completed"
            os.kill((await project.call("projectStatus"))["pid"], signal.SIGKILL)
            await project.told("supervisor/agentReady", generation=2)
            await project.run(thread, "mock:text n=3")
        assert {each.authorization for each in made.model.requests} == {f"Bearer {KEY}"}
        assert made.signal(signal.SIGTERM) == 0

        after = login.stat()
        assert login.read_bytes() == LOGIN
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        )
        assert (made.project_dir / "seen").exists()
        assert (made.state_dir / "supervisor.db").exists()
        assert made.log.stat().st_size > 0
        assert list(holding(made.root, KEY)) == [login]
