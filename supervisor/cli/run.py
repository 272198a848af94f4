"""`run`: one turn, from a prompt to its end."""

import os
import sys
from enum import StrEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.errors import ErrorCode, SupervisorError

if TYPE_CHECKING:
    from supervisor.cli.asking import Asker
    from supervisor.cli.watching import Link, Screen

LAST = "last"
CTRL_C = 130


@unique
class Sandbox(StrEnum):
    """What commands may touch."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    DANGER_FULL_ACCESS = "danger-full-access"


@unique
class ApprovalPolicy(StrEnum):
    """When Codex asks."""

    UNTRUSTED = "untrusted"
    ON_REQUEST = "on-request"
    NEVER = "never"


Prompt = Annotated[str, typer.Argument(help="What is to be done; - reads standard input.")]
Directory = Annotated[
    Path | None, typer.Option("--cwd", "-C", help="The project's directory (here, if left out).")
]
Thread = Annotated[
    str | None, typer.Option("--thread", help="Go on in this thread; `last` is the newest.")
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The model.")]
SandboxOption = Annotated[
    Sandbox | None, typer.Option("--sandbox", "-s", help="What commands may touch.")
]
PolicyOption = Annotated[
    ApprovalPolicy | None, typer.Option("--approval-policy", "-a", help="When codex asks.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


@with_options
def run(
    invocation: Invocation,
    prompt: Prompt,
    *,
    cwd: Directory = None,
    thread: Thread = None,
    model: Model = None,
    sandbox: SandboxOption = None,
    approval_policy: PolicyOption = None,
) -> None:
    """Send a prompt and show what comes of it.

    What codex asks is asked here. Starts a supervisor in the background if none serves. Ctrl-C
    interrupts the turn; twice leaves it alone and says how to come back.
    """
    import asyncio

    if thread is not None and (sandbox or approval_policy):
        raise typer.BadParameter("--sandbox and --approval-policy are for new threads")
    text = _standard_input() if prompt == "-" else _checked(prompt)
    start = {
        "model": model,
        "sandbox": sandbox and sandbox.value,
        "approvalPolicy": approval_policy and approval_policy.value,
    }
    made = _Run(invocation, cwd, thread, {k: v for k, v in start.items() if v is not None})
    status = asyncio.run(made.carry_out(text))
    if status != os.EX_OK:
        raise typer.Exit(status)


def _standard_input() -> str:
    try:
        return _checked(sys.stdin.buffer.read().decode())
    except UnicodeDecodeError as error:
        raise SupervisorError(ErrorCode.BAD_REQUEST, f"the prompt is not UTF-8: {error}") from None


def _checked(text: str) -> str:
    if not text.strip():
        raise SupervisorError(ErrorCode.BAD_REQUEST, "the prompt is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "the prompt is not UTF-8") from None
    return text


class _Run:
    """One call of the command."""

    def __init__(
        self, invocation: Invocation, cwd: Path | None, thread: str | None, start: dict[str, str]
    ) -> None:
        from supervisor.cli.calling import directory

        self._invocation = invocation
        self._settings = invocation.settings()
        self._directory = directory(cwd)
        self._thread = thread
        self._start = start

    async def carry_out(self, text: str) -> int:
        """The exit status."""
        from supervisor.cli.watching import DETACHED, STATUS_OF, Watch

        link = await self._open()
        thread_id = await self._thread_of(link)
        after = str((await link.call("projectStatus"))["cursor"])
        if self._invocation.json:
            output.line(
                {"type": "run", "project": link.project, "threadId": thread_id, "after": after}
            )
        screen, asker = self._shown(link, thread_id)
        watch = Watch(link, screen, asker, thread_id, after)
        try:
            status = await watch.carry_out(self._message(text))
        except* SupervisorError:
            if watch.turn_id is not None:
                self._say_how_to_come_back(link.project, thread_id, watch.cursor)
            raise
        if self._invocation.json:
            output.line(
                {
                    "type": "end",
                    "status": status,
                    "turnId": watch.turn_id,
                    "threadId": thread_id,
                    "cursor": watch.cursor,
                }
            )
        if status == DETACHED:
            self._say_how_to_come_back(link.project, thread_id, watch.cursor)
        return STATUS_OF.get(status, CTRL_C)

    async def _open(self) -> "Link":
        from supervisor.api.following import ask
        from supervisor.cli.launching import Launcher
        from supervisor.cli.watching import Link

        launcher = Launcher(self._invocation, self._settings, self._directory, output.note)
        lost = _Lost()
        opened = await ask(
            launcher.dial, None, "openProject", {"path": str(self._directory)}, on_lost=lost
        )
        return Link(launcher.dial, lost, str(opened["project"]))

    async def _thread_of(self, link: "Link") -> str:
        """The thread to go on in: the one named, the newest, or a new one."""
        if self._thread is None:
            return str((await link.call("startThread", dict(self._start)))["threadId"])
        thread_id = self._thread
        if thread_id == LAST:
            threads: Any = (await link.call("listThreads", {"limit": 1}))["threads"]
            if not threads:
                raise SupervisorError(
                    ErrorCode.THREAD_UNKNOWN, "there is no thread yet", hint="Leave --thread out."
                )
            thread_id = str(threads[0]["id"])
        await link.call("resumeThread", {"threadId": thread_id})
        return thread_id

    def _message(self, text: str) -> dict[str, object]:
        import uuid

        message: dict[str, object] = {"text": text, "idempotencyKey": uuid.uuid4().hex}
        if self._thread is not None and "model" in self._start:
            message["model"] = self._start["model"]
        return message

    def _shown(self, link: "Link", thread_id: str) -> "tuple[Screen, Asker]":
        """Where the turn is shown, and who answers what Codex asks in it."""
        from supervisor.cli.asking import Announcer, Prompter
        from supervisor.cli.rendering import View
        from supervisor.cli.terminal import Terminal
        from supervisor.cli.watching import JsonScreen, PeopleScreen

        answer = self._command("approvals", "answer", "--project", link.project)
        if self._invocation.json:
            return JsonScreen(), Announcer(link.call, thread_id, answer)
        terminal, root = Terminal(), str(self._directory)
        view = View(root)
        screen = PeopleScreen(terminal, view)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return screen, Announcer(link.call, thread_id, answer)
        return screen, Prompter(link.call, thread_id, terminal, view, root)

    def _say_how_to_come_back(self, project: str, thread_id: str, cursor: str) -> None:
        place = ("--project", project, "--thread", thread_id)
        output.note(
            "The turn goes on without this terminal. To watch it again:\n"
            f"  {self._command('events', '-f', '--after', cursor, *place)}\n"
            "To say more once it has ended:\n"
            f"  {self._command('run', '-C', str(self._directory), '--thread', thread_id)} PROMPT"
        )

    def _command(self, *words: str) -> str:
        return output.quoted(["codex-supervisor", *self._invocation.arguments(), *words])


class _Lost:
    """Says it once that the supervisor, or the agent, is away, however often it is tried again."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, error: SupervisorError) -> None:
        if not self._said:
            there = error.code is ErrorCode.AGENT_NOT_READY
            what = "the project's agent is away" if there else "lost the supervisor"
            output.note(f"{what} ({error.message}); going on once it is back")
        self._said = True
