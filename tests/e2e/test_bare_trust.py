"""What the real codex does with a project's own `.codex/config.toml`: the facts trust rests on.

The project's config names an MCP server that touches a file; the person's config names another
one, whose start shows that codex had its chance. No supervisor is involved.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from codex_cli_bin import bundled_codex_path

from supervisor.testing.driver import BareAppServer
from supervisor.testing.model import ScriptedModel, codex_overrides

pytestmark = pytest.mark.codex

DEADLINE = 30
PLACES = (".", "sub", "sub/deep")
WRITABLE = ("workspace-write", "danger-full-access")
SANDBOXES = (*WRITABLE, "read-only")


def untrusted_at_launch(project: Path) -> list[str]:
    key = json.dumps(str(project), ensure_ascii=False)
    return ["-c", f'projects={{{key}={{trust_level="untrusted"}}}}']


def chain(project: Path, cwd: Path, level: str = "untrusted") -> dict[str, object]:
    """Every directory from the project down to `cwd`."""
    between = [cwd, *cwd.parents]
    listed = between[: between.index(project) + 1]
    return {"projects": {str(each): {"trust_level": level} for each in listed}}


@dataclass(frozen=True)
class Outcome:
    ran: set[str]
    """Places whose own MCP server has run."""
    config_unchanged: bool


class Hostile:
    """A project with a hostile config in each of `PLACES`, and a person's CODEX_HOME."""

    def __init__(self, root: Path, model: ScriptedModel) -> None:
        self.project = root / "project"
        self.home = root / "codex-home"
        self._markers = {place: root / f"ran-{index}" for index, place in enumerate(PLACES)}
        self._model = model
        self.home.mkdir()
        for index, (place, marker) in enumerate(self._markers.items()):
            folder = self.project / place / ".codex"
            folder.mkdir(parents=True)
            folder.joinpath("config.toml").write_text(_mcp_server(f"evil{index}", marker))
        self.persons_config(_mcp_server("mine", root / "mine"))

    def persons_config(self, text: str) -> None:
        with (self.home / "config.toml").open("a") as config:
            config.write(text)

    def trusted_by_person(self, folder: Path) -> None:
        self.persons_config(f'[projects."{folder}"]\ntrust_level = "trusted"\n')

    def git(self, folder: Path) -> None:
        """Codex looks for `.git` itself; git need not be installed."""
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")

    async def open(self, launch: Sequence[str], cwd: str, **params: object) -> Outcome:
        """Start a thread in `cwd` and let a whole turn run in it."""
        before = (self.home / "config.toml").read_bytes()
        overrides = [*codex_overrides(self._model.base_url), *launch]
        codex = bundled_codex_path()
        async with (
            asyncio.timeout(DEADLINE),
            BareAppServer.codex(codex, self.home, self.project, overrides) as server,
        ):
            started = await server.request(
                "thread/start", {"cwd": str(self.project / cwd), **params}
            )
            messages = await server.turn(started["thread"]["id"], "hello")
        kind = "mcpServer/startupStatus/updated"
        seen = {each["params"]["name"] for each in messages if each["method"] == kind}
        assert "mine" in seen, "codex had no chance to start any MCP server"
        ran = {place for place, marker in self._markers.items() if marker.exists()}
        assert ran or not any(name.startswith("evil") for name in seen)
        return Outcome(ran, (self.home / "config.toml").read_bytes() == before)


def _mcp_server(name: str, marker: Path) -> str:
    return f'[mcp_servers.{name}]\ncommand = "touch"\nargs = ["{marker}"]\n'


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Hostile]:
    async with ScriptedModel() as model:
        yield Hostile(tmp_path, model)


@pytest.mark.parametrize("place", PLACES)
async def test_left_alone_codex_runs_the_projects_config_and_marks_it_trusted(
    hostile: Hostile, place: str
) -> None:
    outcome = await hostile.open([], place, sandbox="workspace-write")
    assert place in outcome.ran
    assert not outcome.config_unchanged


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_the_launch_flag_covers_the_project_itself(hostile: Hostile, sandbox: str) -> None:
    launch = untrusted_at_launch(hostile.project)
    assert await hostile.open(launch, ".", sandbox=sandbox) == Outcome(set(), True)


@pytest.mark.parametrize("git_at", [None, "sub"])
async def test_the_launch_flag_alone_does_not_cover_a_subdirectory(
    hostile: Hostile, git_at: str | None
) -> None:
    """The fact that makes the chain necessary: if this fails, codex has become safer."""
    if git_at is not None:
        hostile.git(hostile.project / git_at)
    launch = untrusted_at_launch(hostile.project)
    outcome = await hostile.open(launch, "sub", sandbox="workspace-write")
    assert outcome == Outcome({"sub"}, False)


@pytest.mark.parametrize("git_at", [None, ".", "sub", "sub/deep"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("persons", ["nothing", "all trusted"])
async def test_the_chain_covers_every_subdirectory_whatever_the_person_trusts(
    hostile: Hostile, git_at: str | None, place: str, persons: str
) -> None:
    if git_at is not None:
        hostile.git(hostile.project / git_at)
    if persons == "all trusted":
        for each in PLACES:
            hostile.trusted_by_person(hostile.project / each)
    outcome = await hostile.open(
        untrusted_at_launch(hostile.project),
        place,
        sandbox="danger-full-access",
        config=chain(hostile.project, hostile.project / place),
    )
    assert outcome == Outcome(set(), True)


@pytest.mark.parametrize("sandbox", [*WRITABLE, None])
async def test_the_chain_holds_in_every_sandbox(hostile: Hostile, sandbox: str | None) -> None:
    outcome = await hostile.open(
        untrusted_at_launch(hostile.project),
        "sub",
        sandbox=sandbox,
        config=chain(hostile.project, hostile.project / "sub"),
    )
    assert outcome == Outcome(set(), True)


async def test_a_project_inside_a_repository_the_person_trusts_is_untrusted_still(
    hostile: Hostile,
) -> None:
    hostile.git(hostile.project.parent)
    hostile.trusted_by_person(hostile.project.parent)
    outcome = await hostile.open(
        untrusted_at_launch(hostile.project),
        "sub",
        sandbox="workspace-write",
        config=chain(hostile.project, hostile.project / "sub"),
    )
    assert outcome == Outcome(set(), True)


async def test_a_directory_left_out_of_the_chain_is_not_covered(hostile: Hostile) -> None:
    """`config.projects` replaces the launch's map: what it leaves out is the person's again."""
    hostile.git(hostile.project / "sub")
    hostile.trusted_by_person(hostile.project / "sub")
    gap = chain(hostile.project, hostile.project / "sub/deep")
    gap["projects"].pop(str(hostile.project / "sub"))  # type: ignore[attr-defined]
    launch = untrusted_at_launch(hostile.project)
    outcome = await hostile.open(launch, "sub/deep", sandbox="workspace-write", config=gap)
    assert outcome.ran == {"sub"}


async def test_a_dotted_key_of_a_client_undoes_the_launch_flag(hostile: Hostile) -> None:
    """Why every `projects` key of a client's own `config` must be taken out."""
    key = f"projects.{hostile.project}.trust_level"
    launch = untrusted_at_launch(hostile.project)
    outcome = await hostile.open(launch, ".", sandbox="read-only", config={key: "trusted"})
    assert outcome.ran == {"."}


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("place", [".", "sub"])
async def test_a_trusted_chain_runs_it_and_leaves_the_persons_config_alone(
    hostile: Hostile, place: str, sandbox: str
) -> None:
    config = chain(hostile.project, hostile.project / place, "trusted")
    outcome = await hostile.open([], place, sandbox=sandbox, config=config)
    assert place in outcome.ran
    assert outcome.config_unchanged
