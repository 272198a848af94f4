"""The main job with a real codex: a prompt becomes text, commands, approvals and changed files."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.chain import verify
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.store import AuditRow
from supervisor.testing.numbered import check_numbered
from tests.chaos import oracle
from tests.rig import ASKING, FREE, Rig
from tests.talk import Talk, WebSocketDoor, talk

pytestmark = pytest.mark.codex

COMMAND = "touch made-by-command; exit 3"
PATCH = 'mock:patch file=made.txt text="one line"'


@pytest.fixture(params=["unix", "websocket"])
async def anywhere(running: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Talk]:
    door = WebSocketDoor(running) if request.param == "websocket" else None
    async with talk(running, door) as made:
        yield made


async def test_a_prompt_streams_waits_for_approval_and_changes_a_file(
    running: Rig, anywhere: Talk
) -> None:
    thread = await anywhere.thread(ASKING)
    prompt = f"mock:text n=40; mock:exec cmd='{COMMAND}'; {PATCH}; mock:text n=2"
    turn = await anywhere.send(thread, prompt, idempotencyKey="first")
    for _ in range(2):  # the command, then the patch
        await anywhere.answer(await anywhere.asked(turn), "accept")
    assert await anywhere.ended(turn) == "completed"
    assert (running.project_dir / "made-by-command").exists()
    assert (running.project_dir / "made.txt").read_text() == "one line\n"
    oracle.check_cursors(anywhere.reader)
    first = texts(anywhere, turn)[0]
    check_numbered(first, 7)
    assert (await anywhere.call("listApprovals"))["approvals"] == []


def texts(talk: Talk, turn: str) -> list[str]:
    """The messages of a turn, each put together from its deltas."""
    found: dict[str, str] = {}
    for message in talk.reader.messages():
        params = message["params"]
        if message["method"] == "item/agentMessage/delta" and params["turnId"] == turn:
            found[params["itemId"]] = found.get(params["itemId"], "") + params["delta"]
    return list(found.values())


async def test_a_declined_command_does_not_run_and_the_turn_goes_on(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread(ASKING)
    turn = await project.send(thread, "mock:exec cmd='touch never'; mock:text n=5")
    approval = await project.asked(turn)
    await project.answer(approval, "decline")
    assert await project.ended(turn) == "completed"
    assert not (running.project_dir / "never").exists()
    assert len(texts(project, turn)) == 1
    with pytest.raises(SupervisorError) as late:
        await project.answer(approval, "accept")
    assert late.value.code is ErrorCode.APPROVAL_SETTLED


async def test_a_key_used_again_runs_nothing_again(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    asked = {"threadId": thread, "text": "mock:text n=3", "idempotencyKey": "key"}
    first = await project.call("sendMessage", **asked)
    again = await project.call("sendMessage", **asked)
    assert await project.ended(first["turnId"]) == "completed"
    after = await project.call("sendMessage", **asked)
    assert first == {**again, "replayed": False} == {**after, "replayed": False}
    assert again["replayed"]
    assert after["replayed"]
    assert len(running.model.requests) == 1
    with pytest.raises(SupervisorError) as other:
        await project.call("sendMessage", **{**asked, "text": "something else"})
    assert other.value.code is ErrorCode.IDEMPOTENCY_MISMATCH


async def test_a_turn_can_be_steered(running: Rig, project: Talk) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:stall after=2")
    await running.model.wait_for_requests(1)
    with pytest.raises(SupervisorError) as busy:
        await project.send(thread, "mock:text n=1")
    assert busy.value.code is ErrorCode.TURN_ACTIVE
    await project.call("steerTurn", threadId=thread, turnId=turn, text="mock:text n=4")
    assert await project.ended(turn) == "completed"
    prompts = [request.prompt for request in running.model.requests]
    assert prompts[-1].endswith("mock:text n=4")
    check_numbered(texts(project, turn)[-1], 7)


async def test_a_turn_can_be_interrupted_and_the_next_one_works(
    running: Rig, project: Talk
) -> None:
    thread = await project.thread()
    turn = await project.send(thread, "mock:stall after=2")
    await running.model.wait_for_requests(1)
    await project.call("interruptTurn", threadId=thread, turnId=turn)
    assert await project.ended(turn) == "interrupted"
    await project.run(thread, "mock:text n=1")
    with pytest.raises(SupervisorError) as late:
        await project.call("interruptTurn", threadId=thread, turnId=turn)
    assert late.value.code is ErrorCode.TURN_UNKNOWN


async def test_threads_are_named_listed_read_archived_and_resumed(project: Talk) -> None:
    first, second = await project.thread(), await project.thread()
    await project.run(first, "mock:text n=1")
    await project.run(second, "mock:text n=1")
    await project.call("nameThread", threadId=first, name="a name")
    named = (await project.call("readThread", threadId=first, includeTurns=True))["thread"]
    assert named["name"] == "a name"
    assert len(named["turns"]) == 1
    assert await listed(project) == {first, second}
    await project.call("archiveThread", threadId=second)
    assert await listed(project) == {first}
    assert await listed(project, archived=True) == {second}
    await project.call("stopProject")
    await project.call("restartProject")
    resumed = await project.call("resumeThread", threadId=first)
    assert resumed["threadId"] == first
    await project.run(first, "mock:text n=1")
    with pytest.raises(SupervisorError) as unknown:
        await project.call("readThread", threadId="00000000-0000-7000-8000-000000000000")
    assert unknown.value.code is ErrorCode.THREAD_UNKNOWN


async def listed(talk: Talk, **params: object) -> set[str]:
    return {one["id"] for one in (await talk.call("listThreads", **params))["threads"]}


async def test_the_audit_log_says_who_what_and_where(running: Rig, anywhere: Talk) -> None:
    thread = await anywhere.thread(ASKING)
    turn = await anywhere.send(thread, f"mock:exec cmd='{COMMAND}'; {PATCH}")
    for _ in range(2):
        await anywhere.answer(await anywhere.asked(turn), "accept")
    await anywhere.ended(turn)
    await anywhere.call("stopProject")
    records = await anywhere.audit()
    assert verify(records).ok
    check_turn(records, thread, turn)
    check_command(records, running.project_dir)
    check_change(records)
    check_approvals(records)
    check_agent(records)
    ours = [r for r in records if r.turn_id == turn]
    who = {(r.account, r.principal, r.source, r.client) for r in ours}
    assert len(who) == 1, "one person did all of it"
    account, principal, source, _ = who.pop()
    assert account == "local"
    assert principal
    assert source.startswith(("unix:uid=", "127.0.0.1"))
    assert await anywhere.audit(threadId=thread) == [r for r in records if r.thread_id == thread]


def only(records: list[AuditRow], kind: str, phase: str) -> dict[str, Any]:
    """The detail of the one record of that kind and phase."""
    (found,) = [r for r in records if (r.kind, r.phase) == (kind, phase)]
    return dict(json.loads(found.detail))


def check_turn(records: list[AuditRow], thread: str, turn: str) -> None:
    assert only(records, "turn.submitted", "intent")["method"] == "turn/start"
    assert only(records, "turn.submitted", "outcome")["state"] == "done"
    assert only(records, "turn.ended", "fact") == {"state": "completed", "synthesised": False}
    (outcome,) = [r for r in records if (r.kind, r.phase) == ("turn.submitted", "outcome")]
    assert (outcome.thread_id, outcome.turn_id, outcome.generation) == (thread, turn, 1)


def check_command(records: list[AuditRow], project: Path) -> None:
    intent, outcome = (only(records, "command.run", phase) for phase in ("intent", "outcome"))
    assert COMMAND in intent["command"]
    assert COMMAND in outcome["command"]
    assert outcome["cwd"] == str(project)
    assert outcome["exit_code"] == 3
    assert outcome["duration_ms"] >= 0
    assert intent["exit_code"] is None


def check_change(records: list[AuditRow]) -> None:
    change = only(records, "file.changed", "outcome")
    assert Path(change["path"]).name == "made.txt"
    assert change["kind"] == "add"
    assert change["diff_bytes"] == len(b"one line\n")
    assert change["diff_sha256"] == sha256(b"one line\n").hexdigest()
    assert change["status"] == "completed"


def check_approvals(records: list[AuditRow]) -> None:
    asked = [r for r in records if r.kind == "approval.asked"]
    answered = [r for r in records if r.kind == "approval.answered"]
    assert len(asked) == len(answered) == 2
    assert all(json.loads(r.detail)["decision"] == "accept" for r in answered)
    ids = [json.loads(r.detail)["approval_id"] for r in (*asked, *answered)]
    assert ids[:2] == ids[2:]


def check_agent(records: list[AuditRow]) -> None:
    assert only(records, "agent.started", "intent")["trusted"] is False
    assert only(records, "agent.started", "outcome")["pid"] > 0
    ended = only(records, "agent.exited", "fact")
    assert (ended["exit_kind"], ended["asked"]) == ("asked", True)


async def test_text_that_only_utf8_can_say_arrives_whole(running: Rig, project: Talk) -> None:
    text = "é漢😀ß \\u0000 \u2028 end"
    thread = await project.thread(FREE)
    await project.run(thread, text)
    assert running.model.requests[-1].prompt.endswith(text)
