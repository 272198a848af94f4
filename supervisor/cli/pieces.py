"""What a terminal is told to show, and how parts of it are made. Pure."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PATCH_LINES = 20
OUTPUT_LINES = 20
"""Of one command, where it was not shown as it came."""

_SHELLS = frozenset(
    path + name for path in ("", "/bin/", "/usr/bin/") for name in ("sh", "bash", "zsh")
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one style: whole lines, or with `stream` the next part of a flowing text.

    Not yet fit for a terminal: whoever shows it passes it through `output.plain`.
    """

    text: str
    style: str = ""
    stream: str | None = None
    """What the text belongs to; parts of one stream stand beside each other."""


def told(value: object) -> dict[str, Any]:
    """`value` if it is an object, else an empty one: what an agent says is a claim."""
    return value if isinstance(value, dict) else {}


def word(value: object) -> str:
    """`value` if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def listed(value: object) -> list[Any]:
    """`value` if it is a list, else nothing."""
    return value if isinstance(value, list) else []


def unix_lines(text: str) -> str:
    """Programs on a pseudo-terminal end their lines as terminals do."""
    return text.replace("\r\n", "\n")


def marked(text: str) -> str:
    """`text` with every line after its first marked: none of them looks like one of ours."""
    return text.replace("\n", "\n  | ")


def command_line(command: object) -> str:
    """The command without the shell Codex runs it with."""
    text = word(command)
    try:
        parts = shlex.split(text)
    except ValueError:
        return text
    wrapped = len(parts) == 3 and parts[1] in ("-c", "-lc") and parts[0] in _SHELLS
    return parts[2] if wrapped else text


def command_piece(command: object, cwd: object, root: str) -> Piece:
    """`$ make test`, with the directory where it is not the project's."""
    place = word(cwd)
    beside = f"  (in {shown_path(place, root)})" if place and place != root else ""
    return Piece(f"$ {marked(command_line(command))}{beside}", "bold")


def shown_path(path: object, root: str) -> str:
    """Relative to the project, inside of it."""
    text = word(path)
    inside = text.removeprefix(root.rstrip("/") + "/")
    return marked(inside or text)


def output_pieces(output: str) -> Iterable[Piece]:
    """A command's output that was not shown before: its end."""
    lines = unix_lines(output).splitlines()
    if len(lines) > OUTPUT_LINES:
        yield Piece(f"… {len(lines) - OUTPUT_LINES} lines before these", "dim italic")
    if lines:
        yield Piece("\n".join(lines[-OUTPUT_LINES:]), "dim")


def change_pieces(changes: object, root: str, limit: int = PATCH_LINES) -> Iterable[Piece]:
    """Files changed, each with so many lines of its diff."""
    for change in map(told, listed(changes)):
        kind = told(change.get("kind"))
        what = marked(word(kind.get("type"))) or "change"
        to = word(kind.get("move_path"))
        moved = f" → {shown_path(to, root)}" if to else ""
        lines = _diff_lines(what, word(change.get("diff")))
        added = sum(line.startswith("+") for line in lines)
        removed = sum(line.startswith("-") for line in lines)
        name = shown_path(change.get("path"), root)
        yield Piece(f"{what} {name}{moved}  +{added} -{removed}", "bold cyan")
        yield from _diff_pieces(lines, limit)


def _diff_lines(kind: str, diff: str) -> list[str]:
    """As a diff; of a file added or deleted Codex tells the text alone."""
    lines = unix_lines(diff).splitlines()
    if kind == "update" or diff.startswith(("@@", "--- ")):
        return [line for line in lines if not line.startswith(("--- ", "+++ "))]
    return [("-" if kind == "delete" else "+") + line for line in lines]


_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def _diff_pieces(lines: list[str], limit: int) -> Iterable[Piece]:
    for line in lines[:limit]:
        yield Piece(f"  {line}", _STYLES.get(line[:1], "dim"))
    if len(lines) > limit > 0:
        yield Piece(f"  … {len(lines) - limit} more lines", "dim italic")


def problem(error: Mapping[str, object]) -> str:
    """Codex's words for what went wrong in a turn."""
    message, more = word(error.get("message")), word(error.get("additionalDetails"))
    return f"{message} ({more})" if more else message or "no reason given"


def seconds(milliseconds: object) -> str:
    """`1.5 s`; nothing for what is no number."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return ""
    return f"{milliseconds / 1000:.1f} s"
