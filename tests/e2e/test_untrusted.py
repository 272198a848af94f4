"""A project's own Codex config takes effect only once a person has vouched for the directory.

What codex does of itself is measured in test_bare_trust; this is the same through the supervisor.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from tests.rig import FREE, Rig, rig
from tests.talk import Talk, eventually, talk

pytestmark = pytest.mark.codex

PLACES = (".", "sub", "sub/deep")
MCP_STATUS = "mcpServer/startupStatus/updated"


class Hostile:
    """A project whose directories each name an MCP server of their own."""

    def __init__(self, rig: Rig, git_at: str | None) -> None:
        self._markers = {place: rig.root / f"ran-{i}" for i, place in enumerate(PLACES)}
        self._persons = rig.codex_home / "config.toml"
        with self._persons.open("a") as config:
            config.write(_mcp_server("mine", rig.root / "mine"))
        self._before = self._persons.read_bytes()
        for i, (place, marker) in enumerate(self._markers.items()):
            folder = rig.project_dir / place / ".codex"
            folder.mkdir(parents=True)
            folder.joinpath("config.toml").write_text(_mcp_server(f"evil{i}", marker))
        if git_at is not None:
            git = rig.project_dir / git_at / ".git"
            git.mkdir()
            git.joinpath("HEAD").write_text("ref: refs/heads/main\n")

    @property
    def ran(self) -> set[str]:
        """Places whose MCP server has run."""
        return {place for place, marker in self._markers.items() if marker.exists()}

    @property
    def config_unchanged(self) -> bool:
        return self._persons.read_bytes() == self._before

    def forget(self) -> None:
        for marker in self._markers.values():
            marker.unlink(missing_ok=True)


def _mcp_server(name: str, marker: Path) -> str:
    return f'[mcp_servers.{name}]\ncommand = "touch"\nargs = ["{marker}"]\n'


def servers(talk: Talk, since: int) -> set[str]:
    """The MCP servers that codex has tried to start, from that event on."""
    messages = talk.reader.messages()[since:]
    return {m["params"]["name"] for m in messages if m["method"] == MCP_STATUS}


async def whole_turn(talk: Talk, cwd: str, policy: dict[str, str]) -> tuple[str, set[str]]:
    """Start a thread there and let a turn run in it: the thread, the MCP servers tried."""
    since = len(talk.reader.messages())
    thread = await talk.thread(policy, cwd=cwd)
    await talk.run(thread, "mock:text n=1")
    await talk.until(lambda _: "mine" in servers(talk, since))
    return thread, servers(talk, since)


@pytest.fixture(params=[None, ".", "sub"], ids=["no git", "git", "nested git"])
async def hostile(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Hostile, Talk]]:
    async with rig(tmp_path) as made:
        evil = Hostile(made, request.param)
        await made.start()
        async with talk(made) as project:
            yield evil, project


async def test_a_projects_own_config_runs_only_while_the_project_is_trusted(
    hostile: tuple[Hostile, Talk],
) -> None:
    evil, project = hostile
    for cwd in PLACES:
        _, tried = await whole_turn(project, cwd, FREE)
        assert tried == {"mine"}
        assert evil.ran == set()
    assert evil.config_unchanged

    assert (await project.call("trustProject", trusted=True))["trusted"]
    await project.told("supervisor/agentReady", generation=2)
    for cwd in PLACES:
        await whole_turn(project, cwd, FREE)
        await eventually(lambda cwd=cwd: cwd in evil.ran)
    assert evil.config_unchanged

    await project.call("trustProject", trusted=False)
    await project.told("supervisor/agentReady", generation=3)
    evil.forget()
    thread, tried = await whole_turn(project, "sub/deep", FREE)
    assert tried == {"mine"}
    assert evil.ran == set()
    await project.call("restartProject")
    await project.call("resumeThread", threadId=thread)
    await project.run(thread, "mock:text n=1")
    assert evil.ran == set()
    assert evil.config_unchanged
    records = [r.kind for r in await project.audit() if r.kind.startswith("project.")]
    assert records == [
        "project.opened",
        "project.trusted",
        "project.untrusted",
        "project.restarted",
    ]


async def test_threads_kept_over_a_restart_stay_untrusted(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        evil = Hostile(made, None)
        await made.start()
        async with talk(made) as project:
            thread, _ = await whole_turn(project, "sub/deep", {"sandbox": "workspace-write"})
            made.kill()
            for process in made.processes():
                process.kill()
            await made.start()
            await project.told("supervisor/agentReady", generation=2)
            await project.run(thread, "mock:text n=1")
            assert evil.ran == set()
            assert evil.config_unchanged


OVERRIDES: list[dict[str, Any]] = [
    {"projects": {"/": {"trust_level": "trusted"}}},
    {"projects./.trust_level": "trusted"},
    {"mcp_servers": {"evil": {"command": "touch", "args": ["ran"]}}},
    {},
]


async def test_clients_cannot_set_codexs_config(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.start()
        async with talk(made) as project:
            thread = await project.thread()
            requests: list[tuple[str, dict[str, Any]]] = [
                ("startThread", {}),
                ("resumeThread", {"threadId": thread}),
                ("sendMessage", {"threadId": thread, "text": "mock:text n=1"}),
            ]
            for method, params in requests:
                for config in OVERRIDES:
                    refusal = await refused(project, method, config=config, **params)
                    assert refusal.code is ErrorCode.BAD_REQUEST
                    assert "config" in refusal.message


async def test_a_thread_cannot_be_started_outside_the_project(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        (made.project_dir / "link").symlink_to(made.root)
        await made.start()
        async with talk(made) as project:
            for cwd in ("..", str(made.root), "sub/../..", "link", "\0"):
                refusal = await refused(project, "startThread", cwd=cwd)
                assert refusal.code in {ErrorCode.BAD_REQUEST, ErrorCode.PROJECT_PATH_REFUSED}
                assert "cwd" in refusal.message


async def refused(talk: Talk, method: str, **params: Any) -> SupervisorError:
    with pytest.raises(SupervisorError) as raised:
        await talk.call(method, **params)
    return raised.value
