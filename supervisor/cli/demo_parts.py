"""The two parts of the demonstration, and how each is judged.

Nothing is believed that the supervisor says of itself: the scripted model knows what it sent and
how often it was asked, the file is read from the disk, the processes are looked at.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from supervisor.api.following import Patience, ask
from supervisor.cli import output
from supervisor.cli.audit import COLUMNS, rows
from supervisor.cli.demo_stage import KEY, Stage
from supervisor.cli.demo_viewer import COMMAND_ASKED, PATIENCE_SECONDS, Viewer, compared
from supervisor.testing.model import ScriptedModel
from supervisor.testing.numbered import check_numbered

FILE = "greeting.txt"
BEFORE, AFTER = "Helo, world!", "Hello, world!"
FILES = {FILE: BEFORE + "\n", "README.md": "# A project\n"}
COMMAND = f"cp {FILE} {FILE}.bak && wc -c {FILE}.bak"
SAID = "There is a typing error in the greeting. I keep a copy of the file, and correct it. "
DONE = "Done: the greeting is correct now."
FIRST_PROMPT = f"""Correct the typing error.
mock:text n=24 delay=0.04 msg='{SAID}'
mock:exec cmd='{COMMAND}'
mock:patch file={FILE} op=update old='{BEFORE}' text='{AFTER}'
mock:text n=8 delay=0.04 msg='{DONE}'"""

NUMBERS = 120
KILLED_AFTER = 40
SECOND_PROMPT = f"Count.\nmock:slow n={NUMBERS} delay=0.03"

# Codex's own sandbox needs user namespaces, which not every machine gives; approvals do not.
THREAD: dict[str, object] = {"sandbox": "danger-full-access", "approvalPolicy": "untrusted"}
SETTLES = {"approval.asked", "approval.answered", "command.run", "file.changed", "turn.submitted"}


@dataclass(slots=True)
class Verdict:
    """What came of a part: the facts if it holds, else what does not."""

    part: str
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def check(self, holds: object, fact: str) -> None:
        """Note that `fact` is so, or is not."""
        (self.facts if holds else self.problems).append(fact)


class Play:
    """One demonstration under way. Made by `playing`."""

    def __init__(self, stage: Stage, model: ScriptedModel, viewer: Viewer, project: str) -> None:
        self.stage = stage
        self.model = model
        self.viewer = viewer
        self.project = project
        self.thread = ""

    async def call(self, method: str, params: dict[str, object]) -> dict[str, Any]:
        """Ask until it is answered: only what may be asked twice."""
        patience = Patience(seconds=PATIENCE_SECONDS)
        return await ask(self.stage.dial, self.project, method, params, patience=patience)

    async def send(self, prompt: str, key: str) -> str:
        """Start a turn; its id."""
        for line in prompt.splitlines():
            self.viewer.say(f"> {line}", "bold")
        params: dict[str, object] = {"threadId": self.thread, "text": prompt}
        return str((await self.call("sendMessage", params | {"idempotencyKey": key}))["turnId"])

    def asked_of_the_model(self, turn: str) -> int:
        """How many requests that turn cost."""
        return sum(request.turn_id == turn for request in self.model.requests)


@asynccontextmanager
async def playing(stage: Stage, story: Any) -> AsyncIterator[Play]:
    """A model, a supervisor, a viewer, and a thread to talk in."""
    async with ScriptedModel() as model, asyncio.TaskGroup() as tasks:
        stage.furnish(model.base_url, FILES)
        stage.start()
        patience = Patience(seconds=PATIENCE_SECONDS)
        opened = await ask(
            stage.dial, None, "openProject", {"path": str(stage.project)}, patience=patience
        )
        viewer = Viewer(stage, str(opened["project"]), story)
        play = Play(stage, model, viewer, str(opened["project"]))
        watching = tasks.create_task(viewer.run())
        try:
            viewer.say(f"a supervisor, pid {stage.pid}, serves {stage.project}", "dim")
            play.thread = str((await play.call("startThread", THREAD))["threadId"])
            status = await play.call("projectStatus", {})
            viewer.say(f"codex {status['codexVersion']} runs there, pid {status['pid']}", "dim")
            viewer.say(_where(stage, status), "dim")
            yield play
        finally:
            watching.cancel()


def _where(stage: Stage, status: dict[str, Any]) -> str:
    if status["confinement"] is not None:
        return f"in the container {status['confinement']['container'][:12]}, without a network"
    return f"on the host: no container can be started ({stage.why_no_containers})"


async def first_part(play: Play, *, interactive: bool) -> Verdict:
    """A prompt, streamed; a command that waits for its approval; a file changed; the audit."""
    viewer, verdict = play.viewer, Verdict("a turn, from the prompt to the audit log")
    turn = await play.send(FIRST_PROMPT, "first")
    allowed = await _approve(play, turn, interactive=interactive)
    viewer.end_line()
    after = (play.stage.project / FILE).read_text()
    viewer.say(f"{FILE}, as it is on the disk:", "dim")
    viewer.show_diff(compared(FILE, FILES[FILE], after))
    records = (await play.call("listAudit", {"limit": 1000}))["records"]
    checked = await play.call("verifyAudit", {})
    if not viewer.story.stderr:
        viewer.say("the audit log:", "dim")
        output.table(COLUMNS, rows(records))

    commands = viewer.items("commandExecution", turn)
    copied = (play.stage.project / f"{FILE}.bak").exists()
    verdict.check(viewer.ends(turn) == ["completed"], "the turn completed")
    verdict.check(
        viewer.text(turn) == SAID + DONE and viewer.pieces(turn) > 10,
        f"the text streamed in {viewer.pieces(turn)} pieces",
    )
    if play.stage.settings.runtime == "podman":
        keys = {request.authorization for request in play.model.requests}
        verdict.check(keys == {f"Bearer {KEY}"}, "the model was given the key by the proxy alone")
    verdict.check(viewer.of(COMMAND_ASKED, turn), "a command waited for its approval")
    if allowed:
        verdict.check(
            copied and [c["exitCode"] for c in commands] == [0], "it was given, and the command ran"
        )
    else:
        verdict.check(not copied, "it was refused, and the command did not run")
    verdict.check(after == AFTER + "\n", f"{FILE} changed")
    missing = SETTLES - {record["kind"] for record in records}
    verdict.check(
        checked["ok"] and checked["checked"] == len(records) and not missing,
        f"{len(records)} audit records, an unbroken chain",
    )
    return verdict


async def _approve(play: Play, turn: str, *, interactive: bool) -> bool:
    """Answer what is asked until the turn ends; whether everything was allowed."""
    viewer, answered, allowed = play.viewer, set[str](), True
    while True:
        await viewer.until(lambda: viewer.ends(turn) or viewer.asked(turn) > len(answered))
        if viewer.ends(turn):
            return allowed
        waiting = (await play.call("listApprovals", {"threadId": play.thread}))["approvals"]
        for approval in waiting:
            name = approval["approvalId"]
            if name in answered:
                continue
            yes = await _decided(viewer) if interactive else True
            if not interactive:
                viewer.say("! the demonstration answers for you: yes", "bold yellow")
            allowed = allowed and yes
            decision = "accept" if yes else "decline"
            await play.call("answerApproval", {"approvalId": name, "decision": decision})
            answered.add(name)


async def _decided(viewer: Viewer) -> bool:
    """Ask the person at the terminal. Not in a thread: Ctrl-C could not end it."""
    viewer.say("! allow it? [Y/n] ", "bold yellow")
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        loop.remove_reader(sys.stdin)
        line.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, read)
    try:
        # Nothing at all is the end of the input, and no answer.
        return (await line).lower() in {"\n", "y\n", "yes\n"}
    finally:
        loop.remove_reader(sys.stdin)


async def second_part(play: Play) -> Verdict:
    """A supervisor SIGKILLed in a running turn, and a new one that loses nothing of it."""
    viewer, stage = play.viewer, play.stage
    verdict = Verdict("the supervisor is killed in a running turn")
    before = await play.call("projectStatus", {})
    turn = await play.send(SECOND_PROMPT, "second")
    await viewer.until(lambda: viewer.pieces(turn) >= KILLED_AFTER or viewer.ends(turn))
    old = stage.pid
    viewer.say(f"[SIGKILL to the supervisor, pid {old}]", "bold red")
    await asyncio.to_thread(stage.kill)
    seen = viewer.pieces(turn)
    viewer.say(f"[codex, pid {before['pid']}, goes on by itself]", "bold red")
    verdict.check(seen < NUMBERS and psutil.pid_exists(before["pid"]), "the turn was running")
    stage.start()
    viewer.say(f"[a new supervisor, pid {stage.pid}]", "bold green")
    await viewer.until(lambda: viewer.ends(turn))
    after = await play.call("projectStatus", {})
    viewer.end_line()

    same = (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    verdict.check(stage.pid != old and same, f"codex, pid {after['pid']}, was found again")
    verdict.check(viewer.ends(turn) == ["completed"], "the turn completed")
    verdict.check(_numbered(viewer.text(turn)) == NUMBERS, f"pieces 0 to {NUMBERS - 1}, each once")
    verdict.check(
        viewer.losses > 0 and viewer.unbroken(),
        f"{len(viewer.events)} events in all, none lost, none doubled",
    )
    verdict.check(play.asked_of_the_model(turn) == 1, "the model was asked once")
    checked = await play.call("verifyAudit", {})
    verdict.check(checked["ok"], f"{checked['checked']} audit records, an unbroken chain")
    return verdict


def _numbered(text: str) -> int:
    try:
        return check_numbered(text)
    except ValueError:
        return -1
