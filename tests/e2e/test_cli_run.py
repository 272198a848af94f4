"""`codex-supervisor run` with the real codex: in a terminal, with pipes, interrupted, killed."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from supervisor.settings import environment
from supervisor.testing.numbered import check_numbered
from tests.rig import Rig, rig
from tests.terminals import DEADLINE, command, completed, terminal

pytestmark = pytest.mark.codex

FREE = ("-s", "danger-full-access", "-a", "never")
ASKING = ("-s", "danger-full-access", "-a", "untrusted")


class Home:
    """A rig that no supervisor serves yet, as the command line's environment names it."""

    def __init__(self, made: Rig) -> None:
        self.rig = made
        self.started: list[asyncio.subprocess.Process] = []
        self.project = str(made.project_dir)
        self.env = {
            "CODEX_HOME": str(made.codex_home),
            "CODEX_SUPERVISOR_STATE_DIR": str(made.state_dir),
        }

    def run(self, prompt: str, *options: str) -> list[str]:
        return ["run", "-C", self.project, *options, prompt]

    def background(self) -> psutil.Process:
        """The one that was started last."""
        started = (self.rig.state_dir / "background.pid").read_text().split()
        return psutil.Process(int(started[-1]))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with rig(tmp_path) as made:
        home = Home(made)
        yield home
        for process in home.started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_a_person_watches_a_turn_and_allows_what_it_asks(home: Home) -> None:
    prompt = "mock:text n=5; mock:exec cmd='echo made > made.txt'; mock:text msg='Well done.'"
    async with terminal(home.env, *home.run(prompt, *ASKING)) as shown:
        await shown.expect("000000 000001 000002 000003 000004")
        await shown.expect("codex wants to run")
        await shown.expect("$ echo made > made.txt")
        await shown.expect("[y]es  [n]o  [a]lways in this session  [q] stop the turn  > ")
        assert not (home.rig.project_dir / "made.txt").exists()
        shown.type("perhaps\n")
        await shown.expect("[q] stop the turn  > ")
        shown.type("y\n")
        await shown.expect("exit 0")
        await shown.expect("Well done.")
        await shown.expect("turn completed")
        assert await shown.ended() == 0
    assert (home.rig.project_dir / "made.txt").read_text() == "made\n"


async def test_a_refused_command_does_not_run_and_the_turn_goes_on(home: Home) -> None:
    prompt = "mock:exec cmd='touch made.txt'; mock:text msg='Then not.'"
    async with terminal(home.env, *home.run(prompt, *ASKING)) as shown:
        await shown.expect("[q] stop the turn  > ")
        shown.type("n\n")
        await shown.expect("declined")
        await shown.expect("Then not.")
        assert await shown.ended() == 0
    assert not (home.rig.project_dir / "made.txt").exists()


async def test_what_was_typed_before_the_question_is_no_answer(home: Home) -> None:
    prompt = "mock:slow n=40 delay=0.02; mock:exec cmd='touch made.txt'"
    async with terminal(home.env, *home.run(prompt, *ASKING)) as shown:
        await shown.expect("000003")
        shown.type("y\n")
        await shown.expect("[q] stop the turn  > ")
        shown.type("n\n")
        await shown.expect("declined")
        assert await shown.ended() == 0
    assert not (home.rig.project_dir / "made.txt").exists()


async def test_a_change_of_files_is_shown_whole_before_it_is_allowed(home: Home) -> None:
    prompt = "mock:patch file=new.txt text='one\\ntwo'"
    options = ("-s", "read-only", "-a", "on-request")
    async with terminal(home.env, *home.run(prompt, *options)) as shown:
        await shown.expect("codex wants to change files")
        assert "add new.txt  +2 -0" in await shown.expect("+two")
        await shown.expect("[q] stop the turn  > ")
        shown.type("y\n")
        await shown.expect("turn completed")
        assert await shown.ended() == 0
    assert (home.rig.project_dir / "new.txt").read_text() == "one\ntwo\n"


async def test_a_question_is_answered_by_the_number_of_its_option(home: Home) -> None:
    async with terminal(
        home.env, *home.run("mock:ask q='Which colour?' options=Red,Green", *FREE)
    ) as shown:
        await shown.expect("Which colour?")
        await shown.expect("2. Green")
        await shown.expect("> ")
        shown.type("2\n")
        await shown.expect("turn completed")
        assert await shown.ended() == 0
    assert home.rig.model.requests[-1].answered == 1


async def test_an_approval_answered_elsewhere_closes_the_prompt(home: Home) -> None:
    prompt = "mock:exec cmd='touch made.txt'"
    async with terminal(home.env, *home.run(prompt, *ASKING)) as shown:
        await shown.expect("[y]es")
        listed = await asyncio.to_thread(
            completed, home.env, "approvals", "-p", home.project, "--output", "json"
        )
        [approval] = json.loads(listed.stdout)["approvals"]
        answered = await asyncio.to_thread(
            completed,
            home.env,
            *("approvals", "answer", approval["approvalId"], "accept", "-p", home.project),
        )
        assert answered.returncode == 0
        await shown.expect("answered elsewhere")
        await shown.expect("turn completed")
        assert await shown.ended() == 0
    assert (home.rig.project_dir / "made.txt").exists()


async def test_without_a_keyboard_it_says_how_to_answer_and_waits(home: Home) -> None:
    arguments = home.run("mock:exec cmd='touch made.txt'", *ASKING)
    process = await piped(home, *arguments)
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        how = b""
        while b"approvals answer" not in how:
            how = await process.stderr.readline()
        words = shlex.split(how.decode().partition("   (or:")[0])
        done = await asyncio.to_thread(completed, home.env, *words[1:])
        assert done.returncode == 0, done.stderr
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"exit 0" in out
    assert (home.rig.project_dir / "made.txt").exists()


async def test_a_question_is_answered_from_another_terminal(home: Home) -> None:
    prompt = "mock:ask q='Which colour?' options=Red,Green"
    process = await piped(home, *home.run(prompt, *FREE))
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        how = b""
        while b"--text" not in how:
            how = await process.stderr.readline()
        words = shlex.split(how.decode().replace("...", "green"))
        wrong = await asyncio.to_thread(completed, home.env, *words[1:], "--text", "more")
        assert (wrong.returncode, b"one --text for each" in wrong.stderr) == (os.EX_USAGE, True)
        done = await asyncio.to_thread(completed, home.env, *words[1:])
        assert done.returncode == 0, done.stderr
        await process.communicate()
    assert process.returncode == 0
    audit = await asyncio.to_thread(completed, home.env, "audit", "-p", home.project)
    assert b"approval" in audit.stdout


async def test_ctrl_c_interrupts_the_turn(home: Home) -> None:
    async with terminal(home.env, *home.run("mock:slow n=2000 delay=0.05", *FREE)) as shown:
        await shown.expect("000003")
        shown.ctrl_c()
        await shown.expect("turn interrupted")
        assert await shown.ended() == 130


async def test_ctrl_c_at_a_prompt_interrupts_the_turn_too(home: Home) -> None:
    async with terminal(home.env, *home.run("mock:exec cmd='touch made.txt'", *ASKING)) as shown:
        await shown.expect("[y]es")
        shown.ctrl_c()
        await shown.expect("turn interrupted")
        assert await shown.ended() == 130
    assert not (home.rig.project_dir / "made.txt").exists()


async def test_twice_ctrl_c_leaves_the_turn_alone_and_says_how_to_come_back(home: Home) -> None:
    async with terminal(home.env, *home.run("mock:slow n=150 delay=0.04", *FREE)) as shown:
        await shown.expect("000003")
        background = home.background()
        background.suspend()  # so that the first Ctrl-C cannot have its effect
        shown.ctrl_c()
        await shown.expect("interrupting the turn")
        shown.ctrl_c()
        await shown.expect("To watch it again:\n")
        assert await shown.ended() == 130
        background.resume()
        # not the last six digits of the thread's id in the hint
        seen = re.findall(r"(?<![0-9a-f-])[0-9]{6} ", shown.shown)
        [hint] = [line for line in shown.shown.splitlines() if " events -f " in line]
    words = shlex.split(hint)
    assert words[0] == "codex-supervisor"
    async with terminal(home.env, *words[1:], "--output", "json") as back:
        await back.expect("turn/completed")
        await back.expect("\n")
        back.ctrl_c()
        assert await back.ended() == 130
    seen += re.findall(r'"delta":"([0-9]{6} )"', back.shown)
    assert check_numbered("".join(seen), 7) == 150


async def test_json_output_is_one_value_a_line_from_the_start_to_the_end(home: Home) -> None:
    done = await asyncio.to_thread(
        completed, home.env, *home.run("mock:text n=5", "--output", "json", *FREE)
    )
    assert done.returncode == 0, done.stderr
    first, *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["type"] == "run"
    assert {event["type"] for event in events} == {"event"}
    assert last["status"] == "completed"
    assert last["turnId"]
    deltas = [
        event["message"]["params"]["delta"]
        for event in events
        if event["message"]["method"] == "item/agentMessage/delta"
    ]
    assert check_numbered("".join(deltas), 7) == 5
    again = await asyncio.to_thread(
        completed,
        home.env,
        *("events", "--after", first["after"], "--thread", first["threadId"]),
        *("-p", home.project, "--output", "json"),
    )
    assert [json.loads(line) for line in again.stdout.splitlines()][: len(events)] == events
    table = await asyncio.to_thread(
        completed, home.env, "events", "--after", first["after"], "-p", home.project
    )
    assert table.returncode == 0
    [line] = [one for one in table.stdout.decode().splitlines() if "/delta" in one]
    assert "000000 000001 000002 000003 000004" in line


async def test_the_prompt_comes_from_standard_input_and_the_thread_goes_on(home: Home) -> None:
    arguments = ["run", "-C", home.project, *FREE, "-"]
    first = await asyncio.to_thread(completed, home.env, *arguments, given=b"mock:text msg=One")
    assert b"One" in first.stdout
    again = await asyncio.to_thread(
        completed, home.env, "run", "-C", home.project, "--thread", "last", "mock:text msg=Two"
    )
    assert again.returncode == 0, again.stderr
    assert b"Two" in again.stdout
    assert len({request.thread_id for request in home.rig.model.requests}) == 1


async def test_a_turn_that_fails_says_why_and_is_no_success(home: Home) -> None:
    done = await asyncio.to_thread(
        completed, home.env, *home.run("mock:fail status=400 msg='no such luck'", *FREE)
    )
    assert done.returncode == os.EX_UNAVAILABLE
    assert b"no such luck" in done.stdout
    assert b"turn failed" in done.stdout


async def test_a_background_supervisor_nobody_uses_ends_and_takes_its_app_server_along(
    home: Home,
) -> None:
    home.env["CODEX_SUPERVISOR_IDLE_EXIT_SECONDS"] = "1"
    done = await asyncio.to_thread(completed, home.env, *home.run("mock:text n=2", *FREE))
    assert done.returncode == 0, done.stderr
    assert b"starting a supervisor in the background" in done.stderr
    async with asyncio.timeout(DEADLINE):
        while home.rig.processes():  # noqa: ASYNC110  # processes have no event
            await asyncio.sleep(0.05)


async def test_a_supervisor_killed_in_the_turn_costs_no_text(home: Home) -> None:
    process = await piped(home, *home.run("mock:slow n=120 delay=0.02", *FREE))
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        out = await process.stdout.readuntil(b"000010 ")
        killed = home.background()
        killed.send_signal(signal.SIGKILL)
        out += await process.stdout.read()
        assert await process.wait() == 0
    text, _, end = out.decode().partition("\n")
    assert check_numbered(text, 7) == 120
    assert "turn completed" in end
    assert home.background().pid != killed.pid


async def test_one_started_by_hand_is_waited_for_and_not_replaced(home: Home) -> None:
    home.rig.settings["codex_home"] = str(home.rig.codex_home)
    await home.rig.start()
    process = await piped(home, *home.run("mock:slow n=60 delay=0.02", *FREE))
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        out = await process.stdout.readuntil(b"000010 ")
        home.rig.kill()
        assert b"lost the supervisor" in await process.stderr.readline()
        assert not (home.rig.state_dir / "background.pid").exists()
        await home.rig.start()
        out += await process.stdout.read()
        await process.communicate()
    assert process.returncode == 0
    assert check_numbered(out.decode().partition("\n")[0], 7) == 60


async def test_two_at_once_start_one_supervisor(home: Home) -> None:
    both = [await piped(home, *home.run("mock:text n=3", *FREE)) for _ in range(2)]
    async with asyncio.timeout(DEADLINE):
        ends = await asyncio.gather(*(one.communicate() for one in both))
    assert [one.returncode for one in both] == [0, 0], ends
    assert all(b"000000 000001 000002 " in out for out, _ in ends)


async def test_without_a_codex_it_says_what_is_missing(home: Home) -> None:
    home.env["CODEX_SUPERVISOR_CODEX_BIN"] = "/nowhere/codex"
    done = await asyncio.to_thread(completed, home.env, *home.run("hello"))
    assert done.returncode in (os.EX_CONFIG, os.EX_UNAVAILABLE)
    assert b"/nowhere/codex" in done.stderr


async def test_a_supervisor_that_cannot_start_says_why(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        home.env["CODEX_SUPERVISOR_LISTEN_PORT"] = str(taken.getsockname()[1])
        done = await asyncio.to_thread(completed, home.env, *home.run("hello"))
    assert done.returncode == os.EX_CANTCREAT
    assert b"hint: Stop what listens there" in done.stderr


async def test_nothing_is_written_into_a_state_directory_open_to_others(home: Home) -> None:
    home.rig.state_dir.mkdir()
    home.rig.state_dir.chmod(0o755)
    done = await asyncio.to_thread(completed, home.env, *home.run("hello"))
    assert done.returncode == os.EX_NOPERM
    assert b"is open to others" in done.stderr
    assert list(home.rig.state_dir.iterdir()) == []


async def test_no_module_of_the_project_is_ever_imported(home: Home) -> None:
    for name in ("supervisor", "json", "uvloop", "sitecustomize"):
        hostile = "open('ran', 'w')\nraise SystemExit(3)\n"
        (home.rig.project_dir / f"{name}.py").write_text(hostile)
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("codex-supervisor"), "run", *FREE, "mock:text n=2"),
        cwd=home.rig.project_dir,
        env={**environment(), **home.env},
        stdin=subprocess.DEVNULL,
    )
    home.started.append(process)
    assert await process.wait() == 0
    assert not (home.rig.project_dir / "ran").exists()


async def test_nobody_reading_any_more_ends_it_without_a_word(home: Home) -> None:
    process = await piped(home, *home.run("mock:slow n=400 delay=0.02", *FREE))
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        await process.stdout.readuntil(b"000003 ")
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert process.stderr is not None
        said = await process.stderr.read()
        assert await process.wait() == 141
    assert b"Traceback" not in said
    assert b"never retrieved" not in said


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
async def test_a_closed_standard_stream_is_no_mistake(home: Home, closed: str) -> None:
    arguments = command(*home.run("mock:text n=2", *FREE))
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments],
        env={**environment(), **home.env},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


async def piped(home: Home, *arguments: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        env={**environment(), **home.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    return process
