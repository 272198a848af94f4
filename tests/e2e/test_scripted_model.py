"""Every directive does with the real codex what docs/testing-model.md says, over bare pipes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from codex_cli_bin import bundled_codex_path

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.driver import Answer, BareAppServer, Message, accept, decline
from supervisor.testing.model import ScriptedModel, codex_overrides, config_toml
from supervisor.testing.numbered import check_numbered, numbered_text

pytestmark = pytest.mark.codex

DEADLINE = 30
Start = Callable[..., AbstractAsyncContextManager[BareAppServer]]
FULL = {"sandbox": "danger-full-access", "approvalPolicy": "never"}


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "codex-home").mkdir()
    return tmp_path / "codex-home"


@pytest.fixture
def start(model: ScriptedModel, home: Path, project: Path) -> Start:
    @asynccontextmanager
    async def started(answer: Answer = accept, retries: int | None = None) -> AsyncIterator[Any]:
        overrides = codex_overrides(model.base_url, retries=retries)
        codex = bundled_codex_path()
        async with (
            asyncio.timeout(DEADLINE),
            BareAppServer.codex(codex, home, project, overrides, answer=answer) as server,
        ):
            yield server

    return started


async def thread(server: BareAppServer, project: Path, **params: object) -> str:
    started = await server.request("thread/start", {"cwd": str(project), **FULL, **params})
    return str(started["thread"]["id"])


def text_of(messages: list[Message]) -> str:
    deltas = (each for each in messages if each["method"] == "item/agentMessage/delta")
    return "".join(each["params"]["delta"] for each in deltas)


def items_of(messages: list[Message], kind: str) -> list[Message]:
    ended = (each["params"]["item"] for each in messages if each["method"] == "item/completed")
    return [item for item in ended if item["type"] == kind]


def status_of(messages: list[Message]) -> str:
    return str(messages[-1]["params"]["turn"]["status"])


async def test_a_prompt_without_a_directive_gets_a_short_plain_answer(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        thread_id = await thread(server, project)
        messages = await server.turn(thread_id, "hello")
    assert status_of(messages) == "completed"
    assert text_of(messages) == "The scripted model has read this. "
    (request,) = model.requests
    assert request.thread_id == thread_id
    assert request.turn_id == messages[-1]["params"]["turn"]["id"]
    assert (request.prompt, request.attempt, request.outcome) == ("hello", 1, "completed")


async def test_numbered_text_arrives_whole_one_line_a_delta(start: Start, project: Path) -> None:
    async with start() as server:
        messages = await server.turn(await thread(server, project), "mock:text n=5000 size=8")
    deltas = [each for each in messages if each["method"] == "item/agentMessage/delta"]
    assert len(deltas) == 5000
    assert check_numbered(text_of(messages), 8) == 5000
    (message,) = items_of(messages, "agentMessage")
    assert message["text"] == numbered_text(5000, 8)


async def test_text_beyond_ascii_arrives_unharmed(start: Start, project: Path) -> None:
    async with start() as server:
        prompt = "mock:text text=unicode n=300 size=14"
        messages = await server.turn(await thread(server, project), prompt)
    assert check_numbered(text_of(messages), 14, unicode=True) == 300


async def test_slow_text_and_a_given_message(start: Start, project: Path) -> None:
    async with start() as server:
        prompt = "mock:slow n=4 delay=0.001\nmock:text msg='hello there' n=3"
        messages = await server.turn(await thread(server, project), prompt)
    said = [item["text"] for item in items_of(messages, "agentMessage")]
    assert said == [numbered_text(4), "hello there"]


async def test_a_script_runs_a_command_patches_files_and_ends_with_text(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    prompt = (
        'mock:exec cmd="echo ran > x"; mock:patch file=a.txt text="hello\\nworld"\n'
        "mock:patch op=update file=a.txt old=world text=moon; mock:text msg=fin n=1"
    )
    async with start() as server:
        messages = await server.turn(await thread(server, project), prompt)
    assert status_of(messages) == "completed"
    assert (project / "x").read_text() == "ran\n"
    assert (project / "a.txt").read_text() == "hello\nmoon\n"
    assert text_of(messages) == "fin"
    (command,) = items_of(messages, "commandExecution")
    assert command["exitCode"] == 0
    kinds = [item["changes"][0]["kind"]["type"] for item in items_of(messages, "fileChange")]
    assert kinds == ["add", "update"]
    assert [request.steps for request in model.requests] == [
        ("call",),
        ("patch",),
        ("patch",),
        ("text",),
    ]


@pytest.mark.parametrize(("answer", "done"), [(accept, True), (decline, False)])
async def test_approvals_are_asked_and_obeyed(
    start: Start, project: Path, answer: Answer, done: bool
) -> None:
    async with start(answer) as server:
        thread_id = await thread(server, project, approvalPolicy="untrusted")
        prompt = 'mock:exec cmd="touch y"; mock:patch file=b.txt text=x'
        messages = await server.turn(thread_id, prompt)
        asked = [server.server_requests.get_nowait()["method"] for _ in range(2)]
    assert asked == [
        "item/commandExecution/requestApproval",
        "item/fileChange/requestApproval",
    ]
    assert status_of(messages) == "completed"
    assert (project / "y").exists() is done
    assert (project / "b.txt").exists() is done


async def test_an_escalated_command_asks_when_approvals_are_on_request(
    start: Start, project: Path
) -> None:
    async with start() as server:
        thread_id = await thread(server, project, approvalPolicy="on-request", sandbox="read-only")
        await server.turn(thread_id, 'mock:exec cmd="touch z" escalate=1 why="To touch it."')
        asked = server.server_requests.get_nowait()
    assert asked["method"] == "item/commandExecution/requestApproval"
    assert asked["params"]["reason"] == "To touch it."
    assert (project / "z").exists()


async def test_the_user_is_asked_and_the_answer_goes_back(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        messages = await server.turn(
            await thread(server, project), 'mock:ask q="Which one?" options=A,B'
        )
        asked = server.server_requests.get_nowait()
    assert asked["method"] == "item/tool/requestUserInput"
    assert asked["params"]["questions"][0]["question"] == "Which one?"
    assert status_of(messages) == "completed"
    assert [request.answered for request in model.requests] == [0, 1]


async def test_a_dynamic_tool_is_called_with_its_arguments(start: Start, project: Path) -> None:
    schema = {"type": "object", "properties": {"k": {"type": "string"}}}
    tool = {"type": "function", "name": "lookup", "description": "x", "inputSchema": schema}
    async with start() as server:
        thread_id = await thread(server, project, dynamicTools=[tool])
        messages = await server.turn(thread_id, """mock:tool name=lookup args='{"k":"v"}'""")
        asked = server.server_requests.get_nowait()
    assert asked["params"]["arguments"] == {"k": "v"}
    (call,) = items_of(messages, "dynamicToolCall")
    assert call["success"] is True


@pytest.mark.parametrize(
    ("directive", "shown"),
    [
        ("status=429", {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}),
        ("status=500", "internalServerError"),
        ("code=insufficient_quota", "usageLimitExceeded"),
        ("code=context_length_exceeded", "contextWindowExceeded"),
    ],
)
async def test_a_scripted_failure_fails_the_turn(
    start: Start, project: Path, directive: str, shown: object
) -> None:
    async with start(retries=0) as server:
        messages = await server.turn(await thread(server, project), f"mock:fail {directive}")
    assert status_of(messages) == "failed"
    assert messages[-1]["params"]["turn"]["error"]["codexErrorInfo"] == shown


async def test_a_failure_with_a_count_is_over_after_it(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        messages = await server.turn(
            await thread(server, project), "mock:fail status=500 times=1; mock:text n=2"
        )
    assert status_of(messages) == "completed"
    assert text_of(messages) == numbered_text(2)
    assert [(each.attempt, each.outcome) for each in model.requests] == [
        (1, "failed"),
        (2, "completed"),
    ]


async def test_a_misspelt_directive_fails_the_turn_and_says_why(
    start: Start, project: Path
) -> None:
    async with start() as server:
        messages = await server.turn(await thread(server, project), "mock:exce cmd=ls")
    assert "no directive mock:exce" in messages[-1]["params"]["turn"]["error"]["message"]


async def test_a_cut_stream_is_asked_for_again(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        messages = await server.turn(await thread(server, project), "mock:cut after=4 n=8")
    assert status_of(messages) == "completed"
    # The deltas of the first attempt are seen, and come again: its item never completes.
    assert text_of(messages) == numbered_text(4) + numbered_text(8)
    assert [item["text"] for item in items_of(messages, "agentMessage")] == [numbered_text(8)]
    assert [each.outcome for each in model.requests] == ["cut", "completed"]


async def test_a_stalled_turn_can_be_interrupted(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        thread_id = await thread(server, project)
        prompt = [{"type": "text", "text": "mock:stall after=2"}]
        began = await server.request("turn/start", {"threadId": thread_id, "input": prompt})
        await server.until("item/agentMessage/delta")
        turn = {"threadId": thread_id, "turnId": began["turn"]["id"]}
        assert await server.request("turn/interrupt", turn) == {}
        assert status_of(await server.until("turn/completed")) == "interrupted"
        await model.wait_for_requests(1, lambda each: each.outcome == "gone")
        assert status_of(await server.turn(thread_id, "and now?")) == "completed"


async def test_a_released_stall_goes_on_where_it_stood(
    start: Start, project: Path, model: ScriptedModel
) -> None:
    async with start() as server:
        thread_id = await thread(server, project)
        prompt = [{"type": "text", "text": "mock:stall after=2 n=5; mock:text msg=after n=1"}]
        await server.request("turn/start", {"threadId": thread_id, "input": prompt})
        await server.until("item/agentMessage/delta")
        model.release()
        messages = await server.until("turn/completed")
    said = [item["text"] for item in items_of(messages, "agentMessage")]
    assert said == [numbered_text(5), "after"]


async def test_the_key_of_auth_json_reaches_the_model_and_only_where_it_is_wanted(
    home: Path, project: Path, model: ScriptedModel
) -> None:
    (home / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": "sk-of-the-person"}))
    seen = []
    for auth in (True, False):
        (home / "config.toml").write_text(config_toml(model.base_url, auth=auth))
        async with (
            asyncio.timeout(DEADLINE),
            BareAppServer.codex(bundled_codex_path(), home, project) as server,
        ):
            thread_id = await thread(server, project)
            messages = await server.turn(thread_id, "mock:patch file=k.txt text=k")
            assert status_of(messages) == "completed"
        seen.append({each.authorization for each in model.requests})
        model.requests.clear()
    assert seen == [{"Bearer sk-of-the-person"}, {None}]
    assert (project / "k.txt").exists()


async def test_a_refusal_of_codex_is_an_error_with_its_words(start: Start, project: Path) -> None:
    async with start() as server:
        with pytest.raises(SupervisorError) as refused:
            await server.request("turn/start", {"threadId": "nonsense", "input": []})
    assert refused.value.code is ErrorCode.CODEX_REFUSED
    assert refused.value.details["error"]


async def test_a_request_to_a_killed_app_server_is_a_lost_connection(start: Start) -> None:
    async with start() as server:
        os.kill(server.process.pid, signal.SIGKILL)
        with pytest.raises(SupervisorError) as lost:
            await server.request("thread/loaded/list", {})
    assert lost.value.code is ErrorCode.CONNECTION_LOST


async def test_a_line_of_32_mebibytes_can_be_written(start: Start, project: Path) -> None:
    async with start() as server:
        thread_id = await thread(server, project)
        text = "x" * (32 << 20)
        params = {
            "threadId": thread_id,
            "items": [
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": text}],
                }
            ],
        }
        await server.request("thread/inject_items", params)
        assert thread_id in (await server.request("thread/loaded/list", {}))["data"]


async def test_as_a_process_it_serves_logs_and_ends_on_sigterm(
    home: Path, project: Path, tmp_path: Path
) -> None:
    log = tmp_path / "model.jsonl"
    command = [sys.executable, "-m", "supervisor.testing.model", "--log", str(log)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        async with asyncio.timeout(DEADLINE):
            assert process.stdout is not None
            base_url = json.loads(await process.stdout.readline())["base_url"]
            overrides = codex_overrides(base_url)
            codex = bundled_codex_path()
            async with BareAppServer.codex(codex, home, project, overrides) as server:
                messages = await server.turn(await thread(server, project), "mock:text n=5")
                assert text_of(messages) == numbered_text(5)
            control = base_url.removesuffix("/v1") + "/control/requests"
            async with aiohttp.ClientSession() as session, session.get(control) as answer:
                (shown,) = await answer.json()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["open", "completed"]
    assert lines[-1] == shown
