"""What goes to standard output and standard error, and nothing else goes anywhere.

Standard output carries the result, in the one form asked for; notes and errors go to standard
error. Text that comes from an agent, a file or another machine passes `plain` before a terminal
sees it.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from rich.console import Console

_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
_UNSEEN = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)
}
_UNSEEN |= {code: f"\\u{code:04x}" for code in (*_TURNING, *range(0xD800, 0xE000))}


def plain(text: object) -> str:
    """`text` with nothing in it that moves a cursor, or shows text in another order than it is
    written: an approval must look like what it allows. Newlines and tabs stay."""
    return str(text).translate(_UNSEEN)


def console() -> "Console":
    """Standard output, for people."""
    return _console(stderr=False)


def errors() -> "Console":
    """Standard error, for people."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    class Honest(Console):
        """Raises the closed pipe: rich's own way, to exit, ends no task in order."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Honest(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def document(value: object) -> None:
    """The one JSON document of a command."""
    _write(json.dumps(value, indent=2, ensure_ascii=False))


def line(value: object) -> None:
    """One JSON line of a stream."""
    _write(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(text: str) -> None:
    """A word to the person, beside the result."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def text(line: str) -> None:
    """One line of the result, for people."""
    _write(plain(line))


def quoted(arguments: Iterable[str]) -> str:
    """As a shell would take them back."""
    return shlex.join(arguments)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; what is None is shown as nothing."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    # Folded, not cut: the end of a path or a command may be what matters.
    wide = (Column(name, overflow="fold") for name in columns)
    shown = Table(*wide, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else plain(cell)) for cell in row))
    _print(shown)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="dim")
    for name, value in pairs:
        shown.add_row(name, Text("" if value is None else plain(value)))
    _print(shown)


def error(problem: SupervisorError, *, as_json: bool) -> None:
    """An error, on standard error."""
    if as_json:
        sys.stderr.write(json.dumps({"error": problem.as_dict()}, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"error: {plain(problem.message)}\n")
        if problem.hint:
            sys.stderr.write(f"hint: {plain(problem.hint)}\n")
    sys.stderr.flush()


def _write(text: str) -> None:
    data = text.encode("utf-8", "backslashreplace") + b"\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _print(shown: object) -> None:
    target = console()
    if not target.is_terminal:
        # Nothing is cut for a pipe or a file.
        target.width = 1000
    target.print(shown)
