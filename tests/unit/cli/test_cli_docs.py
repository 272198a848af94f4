"""The page on the command line has every command, and no other; and every status they end with."""

import re
from pathlib import Path

import typer.main

from supervisor.cli.main import BROKEN_PIPE, CTRL_C, app
from supervisor.errors import ERROR_KINDS

PAGE = Path(__file__).parents[3] / "docs/cli.md"


def commands() -> set[str]:
    found = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        verbs = getattr(command, "commands", None)
        found |= {name} if verbs is None else {f"{name} {verb}" for verb in verbs}
    return found


def test_every_command_is_on_the_page_once_and_no_other() -> None:
    table = PAGE.read_text().partition("Every command takes")[0]

    assert sorted(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == sorted(commands())


def test_every_exit_status_is_on_the_page() -> None:
    statuses = {
        int(status) for status in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    }

    assert {kind.exit_status for kind in ERROR_KINDS.values()} < statuses
    assert {0, CTRL_C, BROKEN_PIPE} < statuses
