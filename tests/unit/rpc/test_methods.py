"""What each method asks of the agent, and what it tells the client."""

import json
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from tests.unit.rpc.fakes import THREAD, server_request
from tests.unit.rpc.test_dispatch import HOST, P1, Bench

COMMAND = "item/commandExecution/requestApproval"


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_host_status_counts_the_callers_projects(bench: Bench) -> None:
    shown = await bench.call(HOST, "hostStatus", {})
    assert shown == {"version": "1.2.3", "pid": 42, "uptime": 10.0, "projects": 1, "url": ""}


async def test_list_projects_shows_the_callers_only(bench: Bench) -> None:
    shown: Any = await bench.call(HOST, "listProjects", {})
    assert [one["project"] for one in shown["projects"]] == ["p1"]


async def test_open_project_shows_what_was_opened(bench: Bench) -> None:
    assert (await bench.call(HOST, "openProject", {"path": "/projects/p1"}))["project"] == "p1"
    assert bench.agents.did == [("open", "/projects/p1")]


async def test_open_project_does_not_show_another_accounts(bench: Bench) -> None:
    error = await bench.refused(HOST, "openProject", {"path": "/projects/theirs"})
    assert error.code is ErrorCode.PROJECT_PATH_REFUSED
    assert "other" not in error.message


@pytest.mark.parametrize(
    ("method", "params", "did"),
    [
        ("stopProject", {}, ("stop", "p1")),
        ("restartProject", {}, ("restart", "p1")),
        ("trustProject", {"trusted": True}, ("trust", "p1", True)),
    ],
)
async def test_project_methods_do_it_and_show_the_state(
    bench: Bench, method: str, params: object, did: tuple[object, ...]
) -> None:
    assert (await bench.call(P1, method, params))["project"] == "p1"
    assert bench.agents.did == [did]


@pytest.mark.parametrize("trusted", [1, "true", None])
async def test_trust_wants_a_boolean(bench: Bench, trusted: object) -> None:
    assert "trusted" in (await bench.refused(P1, "trustProject", {"trusted": trusted})).message


async def test_ping_asks_the_app_server(bench: Bench) -> None:
    bench.agent.answers["thread/loaded/list"] = {"data": ["a", "b"], "nextCursor": None}
    assert await bench.call(P1, "pingProject", {}) == {"loadedThreads": 2}
    assert bench.agent.asked == [("thread/loaded/list", {})]


async def test_agent_logs_are_bounded(bench: Bench) -> None:
    assert await bench.call(P1, "agentLogs", {"bytes": 3}) == {"text": "end"}
    for size in (0, 2**20 + 1):
        error = await bench.refused(P1, "agentLogs", {"bytes": size})
        assert "params.bytes" in error.message


async def test_start_thread_passes_what_is_allowed(bench: Bench) -> None:
    tool = {"type": "function", "name": "f", "description": "d", "inputSchema": {"type": "object"}}
    params = {
        "model": "m",
        "cwd": "sub/dir",
        "sandbox": "read-only",
        "approvalPolicy": "untrusted",
        "effort": "low",
        "developerInstructions": "be brief",
        "dynamicTools": [tool],
    }
    shown: Any = await bench.call(P1, "startThread", params)
    assert (shown["threadId"], shown["requestId"]) == (THREAD, "run-1")
    assert shown["thread"]["model"] == "m"
    [(method, upstream, _)] = bench.agent.acted
    assert method == "thread/start"
    assert upstream == {
        "model": "m",
        "cwd": "/projects/p1/sub/dir",
        "sandbox": "read-only",
        "approvalPolicy": "untrusted",
        "config": {"model_reasoning_effort": "low"},
        "developerInstructions": "be brief",
        "dynamicTools": [tool | {"deferLoading": False}],
    }


async def test_start_thread_sends_nothing_that_was_not_said(bench: Bench) -> None:
    await bench.call(P1, "startThread", {})
    assert bench.agent.acted == [("thread/start", {}, None)]


@pytest.mark.parametrize(
    "extra",
    [
        {"config": {"sandbox_mode": "danger-full-access"}},
        {"modelProvider": "mine"},
        {"sandbox": "externalSandbox"},
        {"approvalPolicy": "on-failure"},
        {"approvalPolicy": {"granular": {}}},
        {"effort": "Low'; --"},
        {"dynamicTools": [{"type": "function", "name": "no spaces", "description": ""}]},
        {"baseInstructions": "you are root"},
    ],
)
async def test_start_thread_refuses_what_is_not_the_clients_to_set(
    bench: Bench, extra: dict[str, object]
) -> None:
    assert (await bench.refused(P1, "startThread", extra)).code is ErrorCode.BAD_REQUEST
    assert not bench.agent.acted


@pytest.mark.parametrize(
    "cwd", ["/", "/etc", "..", "a/../../b", "/projects/p1/../p2", "/projects/p12", "a\0b"]
)
async def test_a_working_directory_outside_the_project_is_refused(bench: Bench, cwd: str) -> None:
    error = await bench.refused(P1, "startThread", {"cwd": cwd})
    assert error.code is ErrorCode.PROJECT_PATH_REFUSED
    assert not bench.agent.acted


async def test_a_tools_schema_nested_past_what_codex_reads_is_refused(bench: Bench) -> None:
    schema: dict[str, object] = {}
    for _ in range(200):
        schema = {"items": schema}
    tool = {"type": "function", "name": "f", "description": "", "inputSchema": schema}
    error = await bench.refused(P1, "startThread", {"dynamicTools": [tool]})
    assert "nested" in error.message
    assert not bench.agent.acted


def listed(*cwds: str, cursor: str | None = None) -> dict[str, object]:
    threads = [{"id": f"t{place}", "cwd": cwd} for place, cwd in enumerate(cwds)]
    return {"data": threads, "nextCursor": cursor}


async def test_list_threads_leaves_other_directories_out_and_reads_on(bench: Bench) -> None:
    bench.agent.answers["thread/list"] = [
        listed("/elsewhere", "/projects/p1", cursor="c1"),
        listed("/projects/p1/sub", "/projects/p12", cursor="c2"),
        listed(),
    ]
    shown: Any = await bench.call(P1, "listThreads", {"limit": 3})
    assert [one["cwd"] for one in shown["threads"]] == ["/projects/p1", "/projects/p1/sub"]
    assert shown["nextCursor"] is None
    assert [asked for _, asked in bench.agent.asked] == [
        {"limit": 3, "archived": False},
        {"limit": 2, "archived": False, "cursor": "c1"},
        {"limit": 1, "archived": False, "cursor": "c2"},
    ]


async def test_list_threads_stops_at_its_limit_and_says_where(bench: Bench) -> None:
    bench.agent.answers["thread/list"] = [listed("/projects/p1", cursor="c1")]
    shown: Any = await bench.call(P1, "listThreads", {"limit": 1, "archived": True})
    assert shown["nextCursor"] == "c1"
    assert bench.agent.asked == [("thread/list", {"limit": 1, "archived": True})]


async def test_list_threads_gives_up_after_some_pages_of_others(bench: Bench) -> None:
    bench.agent.answers["thread/list"] = [listed("/elsewhere", cursor=f"c{n}") for n in range(99)]
    shown: Any = await bench.call(P1, "listThreads", {})
    assert shown["threads"] == []
    assert shown["nextCursor"] == "c19"


async def test_read_thread_asks_for_turns_only_if_told(bench: Bench) -> None:
    shown: Any = await bench.call(P1, "readThread", {"threadId": THREAD})
    assert shown["thread"]["id"] == THREAD
    await bench.call(P1, "readThread", {"threadId": THREAD, "includeTurns": True})
    assert [asked for _, asked in bench.agent.asked] == [
        {"threadId": THREAD, "includeTurns": False},
        {"threadId": THREAD, "includeTurns": True},
    ]


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("readThread", {}),
        ("resumeThread", {}),
        ("nameThread", {"name": "n"}),
        ("archiveThread", {}),
    ],
)
async def test_a_thread_of_another_directory_is_unknown_and_untouched(
    bench: Bench, method: str, extra: dict[str, object]
) -> None:
    bench.agent.thread_cwd = "/elsewhere"
    error = await bench.refused(P1, method, {"threadId": THREAD} | extra)
    assert error.code is ErrorCode.THREAD_UNKNOWN
    assert not bench.agent.acted


@pytest.mark.parametrize(
    ("method", "extra", "upstream"),
    [
        ("nameThread", {"name": "N"}, "thread/name/set"),
        ("archiveThread", {}, "thread/archive"),
    ],
)
async def test_thread_methods_act_upstream(
    bench: Bench, method: str, extra: dict[str, object], upstream: str
) -> None:
    await bench.call(P1, method, {"threadId": THREAD} | extra)
    assert bench.agent.acted == [(upstream, {"threadId": THREAD} | extra, None)]


async def test_a_thread_is_resumed_in_the_directory_it_was_looked_up_in(bench: Bench) -> None:
    bench.agent.thread_cwd = "/projects/p1/sub"
    shown = await bench.call(P1, "resumeThread", {"threadId": THREAD})
    assert shown["threadId"] == THREAD
    upstream = {"threadId": THREAD, "cwd": "/projects/p1/sub"}
    assert bench.agent.acted == [("thread/resume", upstream, None)]


async def test_send_message_starts_a_turn(bench: Bench) -> None:
    params = {
        "threadId": THREAD,
        "text": "hi",
        "idempotencyKey": "k",
        "model": "m",
        "effort": "low",
    }
    shown = await bench.call(P1, "sendMessage", params)
    assert shown == {"turnId": "turn-1", "requestId": "run-1", "replayed": False}
    [(method, upstream, key)] = bench.agent.acted
    assert (method, key) == ("turn/start", "k")
    assert upstream == {
        "threadId": THREAD,
        "input": [{"type": "text", "text": "hi"}],
        "model": "m",
        "effort": "low",
    }


async def test_send_message_takes_images_inside_the_project(bench: Bench) -> None:
    inputs = [{"type": "text", "text": "see"}, {"type": "localImage", "path": "a/b.png"}]
    await bench.call(P1, "sendMessage", {"threadId": THREAD, "input": inputs})
    [(_, upstream, _)] = bench.agent.acted
    assert upstream["input"] == [inputs[0], {"type": "localImage", "path": "/projects/p1/a/b.png"}]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "a/../../x.png", "/projects/p1/../x"])
async def test_send_message_refuses_images_outside_the_project(bench: Bench, path: str) -> None:
    params = {"threadId": THREAD, "input": [{"type": "localImage", "path": path}]}
    error = await bench.refused(P1, "sendMessage", params)
    assert error.code is ErrorCode.PROJECT_PATH_REFUSED
    assert not bench.agent.acted


async def test_steer_and_interrupt_act_upstream(bench: Bench) -> None:
    turn = {"threadId": THREAD, "turnId": "u1"}
    await bench.call(P1, "steerTurn", turn | {"text": "left"})
    await bench.call(P1, "interruptTurn", turn)
    steer = {
        "threadId": THREAD,
        "expectedTurnId": "u1",
        "input": [{"type": "text", "text": "left"}],
    }
    assert bench.agent.acted == [("turn/steer", steer, None), ("turn/interrupt", turn, None)]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("invalid thread id: invalid character", ErrorCode.THREAD_UNKNOWN),
        (f"thread not loaded: {THREAD}", ErrorCode.THREAD_UNKNOWN),
        (f"thread not found: {THREAD}", ErrorCode.THREAD_UNKNOWN),
        (f"no rollout found for thread id {THREAD}", ErrorCode.THREAD_UNKNOWN),
        ("no active turn to interrupt", ErrorCode.TURN_UNKNOWN),
        ("expected active turn id `x` but found `y`", ErrorCode.TURN_UNKNOWN),
        ("something else", ErrorCode.CODEX_REFUSED),
    ],
)
async def test_codexs_refusals_get_our_codes_and_keep_their_words(
    bench: Bench, words: str, code: ErrorCode
) -> None:
    bench.agent.failure = SupervisorError(
        ErrorCode.CODEX_REFUSED, words, details={"error": {"code": -32600}}
    )
    error = await bench.refused(P1, "interruptTurn", {"threadId": THREAD, "turnId": "u1"})
    assert (error.code, error.message) == (code, words)
    assert error.details == {"error": {"code": -32600}}


@pytest.mark.parametrize("method", ["startThread", "resumeThread", "sendMessage", "pingProject"])
async def test_an_answer_of_codex_in_another_shape_is_codexs_error(
    bench: Bench, method: str
) -> None:
    bench.agent.outcomes = {}
    bench.agent.answers["thread/loaded/list"] = {}
    params: dict[str, object] = {"threadId": THREAD}
    params |= {"text": "x"} if method == "sendMessage" else {}
    given = params if method in ("resumeThread", "sendMessage") else {}
    assert (await bench.refused(P1, method, given)).code is ErrorCode.CODEX_REFUSED


async def test_list_approvals_shows_what_waits(bench: Bench) -> None:
    bench.agent.requests = [
        server_request("1-0", COMMAND),
        server_request("1-1", COMMAND, thread_id="other"),
    ]
    shown: Any = await bench.call(P1, "listApprovals", {"threadId": THREAD})
    [approval] = shown["approvals"]
    assert (approval["approvalId"], approval["method"]) == ("1-0", COMMAND)
    assert approval["params"] == {"command": "ls"}
    assert len((await bench.call(P1, "listApprovals", {}))["approvals"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [{"decision": "accept"}, {"result": {"decision": "accept"}}])
async def test_an_approval_is_answered_by_a_word_or_a_result(
    bench: Bench, answer: dict[str, object]
) -> None:
    bench.agent.requests = [server_request("1-0", COMMAND)]
    assert await bench.call(P1, "answerApproval", {"approvalId": "1-0"} | answer) == {}
    assert bench.agent.answered == [("1-0", {"decision": "accept"})]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"decision": "accept", "result": {}},
        {"decision": "perhaps"},
        {"decision": 1},
        {"result": {"decision": "perhaps"}},
        {"result": []},
    ],
)
async def test_an_answer_codex_would_not_take_never_reaches_it(
    bench: Bench, answer: dict[str, object]
) -> None:
    bench.agent.requests = [server_request("1-0", COMMAND)]
    error = await bench.refused(P1, "answerApproval", {"approvalId": "1-0"} | answer)
    assert error.code is ErrorCode.BAD_REQUEST
    assert not bench.agent.answered


async def test_the_agent_says_why_an_approval_waits_no_more(bench: Bench) -> None:
    error = await bench.refused(P1, "answerApproval", {"approvalId": "9-9", "decision": "accept"})
    assert error.code is ErrorCode.APPROVAL_UNKNOWN


async def test_describe_methods_is_the_whole_registry(bench: Bench) -> None:
    shown: Any = await bench.call(HOST, "describeMethods", {})
    names = [one["name"] for one in shown["methods"]]
    assert "sendMessage" in names
    assert "describeMethods" in names
    assert json.dumps(shown)
