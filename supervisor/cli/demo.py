"""`demo`: what this program is for, shown in half a minute, with nothing faked but the model.

A temporary directory, embedded defaults, no network, the real codex. Part 1 is a turn with an
approval, a changed file and its audit; part 2 kills the supervisor in a running turn. It succeeds
only if what was seen holds against what the model, the disk and the kernel say.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.errors import ErrorCode, SupervisorError

if TYPE_CHECKING:
    from rich.console import Console

    from supervisor.cli.demo_parts import Verdict
    from supervisor.cli.demo_stage import Stage

DEADLINE_SECONDS = 120.0
FAILED = 1

Interactive = Annotated[
    bool, typer.Option("--interactive", "-i", help="Answer the approvals yourself.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(with_options(demo))


def demo(inv: Invocation, *, interactive: Interactive = False) -> None:
    """Show a turn, an approval, the audit log, and a supervisor killed in a running turn."""
    from supervisor.cli.demo_parts import Verdict
    from supervisor.cli.demo_stage import Stage
    from supervisor.runtimes.binary import codex_binary

    stage = Stage.build()
    story = output.errors() if inv.json else output.console()
    verdicts: list[Verdict] = []
    try:
        with _interruptible():
            codex_binary(stage.settings.codex_bin)
            stage.contain()
            asyncio.run(
                _played(stage, story, verdicts, interactive=interactive and sys.stdin.isatty())
            )
    finally:
        with _deaf():
            left = stage.clear()
        end = Verdict("afterwards")
        end.check(not left, f"left running, and ended now: {left}" if left else "nothing is left")
        verdicts.append(end)
        _tell(inv, story, verdicts)
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(FAILED)


async def _played(
    stage: "Stage", story: "Console", verdicts: list["Verdict"], *, interactive: bool
) -> None:
    from supervisor.cli.demo_parts import first_part, playing, second_part

    try:
        async with asyncio.timeout(DEADLINE_SECONDS), playing(stage, story) as play:
            _headline(story, "Part 1: a prompt, an approval, a changed file, the audit log")
            verdicts.append(await first_part(play, interactive=interactive))
            _headline(story, "Part 2: the supervisor is killed in the middle of a turn")
            verdicts.append(await second_part(play))
    except TimeoutError:
        raise SupervisorError(
            ErrorCode.INTERNAL,
            f"the demonstration is not over after {DEADLINE_SECONDS:.0f} s",
            details={"log": stage.log_tail()},
        ) from None


def _headline(story: "Console", text: str) -> None:
    from rich.text import Text

    story.print()
    story.print(Text(text, "bold underline"))


def _tell(inv: Invocation, story: "Console", verdicts: list["Verdict"]) -> None:
    from rich.text import Text

    story.print()
    for verdict in verdicts:
        mark, style = ("✓", "green") if verdict.ok else ("✗", "red")
        said = verdict.facts if verdict.ok else [f"not so: {p}" for p in verdict.problems]
        story.print(Text(output.plain(f"{mark} {verdict.part}: {'; '.join(said)}"), style))
    if inv.json:
        shown = [
            {"part": v.part, "ok": v.ok, "facts": v.facts, "problems": v.problems} for v in verdicts
        ]
        output.document({"ok": all(v.ok for v in verdicts), "verdicts": shown})


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: in order. Ctrl-C itself is heard again where a
    shell that put us into the background had it ignored: the others come by way of it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    with (
        _handling(signal.default_int_handler, signal.SIGINT),
        _handling(interrupt, signal.SIGTERM, signal.SIGHUP),
    ):
        yield


@contextmanager
def _deaf() -> Iterator[None]:
    """A second Ctrl-C does not stop the cleaning up: it takes some seconds at most."""
    with _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handling(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)
